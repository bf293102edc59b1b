"""Attention kernels: outputs, log-sum-exps and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from launch.check.finding import Finding, judged
from launch.check.limits import ATTENTION_ERROR, KERNEL_SHARE_OF_PEAK, LOG_SUM_EXP_ERROR
from launch.check.site import Site

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape = tuple[int, int, int]
"""Heads, tokens, numbers in a head."""
# Wan 14B at 720p on one rank and on eight, and a length that nothing divides
_CUDA_SHAPES: Sequence[Shape] = ((40, 75600, 128), (5, 75600, 128), (5, 75601, 128))
_CPU_SHAPES: Sequence[Shape] = ((4, 500, 64), (2, 503, 64))
_COMPARED_ROWS = 64
_ROUNDS = 3

Kernel = Callable[["Tensor", "Tensor", "Tensor"], tuple["Tensor", "Tensor | None"]]
"""query, key, value [1, heads, tokens, numbers] to the output in the same shape and the log-sum-exp [1, heads, tokens],
None where the kernel keeps it back."""


@dataclass(frozen=True)
class Measured:
    """One kernel at one shape. Errors are the largest of any element; rate in TFLOP/s."""

    kernel: str
    shape: Shape
    seconds: float
    rate: float
    error: float
    log_sum_exp_error: float | None


def attention_kernels(site: Site) -> Finding:
    """Every kernel that this machine has, at the lengths of a large model, against float64."""
    import torch

    from engine.execution.peak import measure_peak_flops

    dtype = torch.bfloat16 if site.kind == "cuda" else torch.float32
    shapes = _CUDA_SHAPES if site.kind == "cuda" else _CPU_SHAPES
    found: list[Measured] = []
    absent: list[str] = []
    for name, kernel in kernels(site.device, dtype):
        try:
            found += [measure(name, kernel, shape, site.device, dtype) for shape in shapes]
        except (RuntimeError, NotImplementedError, TypeError, ImportError) as error:
            absent.append(f"{name} does not run: {' '.join(str(error).split())[:80]}")
    peak = measure_peak_flops(site.device, dtype)
    short = shortfalls(found, site.kind, peak)
    figure = "; ".join(
        f"{each.kernel} {list(each.shape)} {1000 * each.seconds:.1f} ms, {each.rate:.3g} TFLOP/s"
        f", error {each.error:.0e}"
        + ("" if each.log_sum_exp_error is None else f", log-sum-exp {each.log_sum_exp_error:.0e}")
        for each in found
    )
    reason = (
        f"outputs within {ATTENTION_ERROR.on(site.kind):g}, log-sum-exps within {LOG_SUM_EXP_ERROR.on(site.kind):g}, "
        f"the fastest at least {KERNEL_SHARE_OF_PEAK.on(site.kind):g} of {peak / 1e12:.3g} TFLOP/s"
    )
    return judged(short, figure, "; ".join([reason, *absent]))


def shortfalls(found: Sequence[Measured], kind: str, peak: float) -> list[str]:
    """What is wrong, or slow, in the fastest kernel of each shape."""
    if not found:
        return ["no kernel runs"]
    short = []
    for each in found:
        where = f"{each.kernel} at {list(each.shape)}"
        if not each.error <= (limit := ATTENTION_ERROR.on(kind)):
            short.append(f"{where}: the output is off by {each.error:.1e}, above {limit:g}")
        error = each.log_sum_exp_error
        if error is not None and not error <= (limit := LOG_SUM_EXP_ERROR.on(kind)):
            short.append(f"{where}: the log-sum-exp is off by {error:.1e}, above {limit:g}, and a ring needs it")
    for shape in {each.shape for each in found}:
        best = max(each.rate for each in found if each.shape == shape)
        if best < (share := KERNEL_SHARE_OF_PEAK.on(kind)) * peak / 1e12:
            short.append(f"{list(shape)}: {best:.3g} TFLOP/s are under {share:g} of the rate of matrix products")
    return short


def kernels(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Kernel]]:
    """By name: torch's own choice, and those of the engine that return the log-sum-exp."""
    from torch.nn import functional

    yield "sdpa", lambda q, k, v: (functional.scaled_dot_product_attention(q, k, v), None)
    if device.type == "cpu":
        from parallel.torch_private import cpu_flash_attention

        yield "cpu flash", cpu_flash_attention()
        return
    from parallel import xdit

    kinds = xdit.AttentionBackendType
    flash3 = xdit.PACKAGES_CHECKER.packages_info.get("has_flash_attn_3", False)
    flash = xdit.PACKAGES_CHECKER.packages_info.get("has_flash_attn", False)
    wanted = {"flash": kinds.SDPA_FLASH, "efficient": kinds.SDPA_EFFICIENT, "cudnn": getattr(kinds, "CUDNN", None)}
    wanted |= {"flash-attn 2": kinds.FLASH if flash else None, "flash-attn 3": kinds.FLASH_3 if flash3 else None}
    for name, kind in wanted.items():
        if kind in xdit.ATTENTION_FUNCTION_REGISTRY:
            yield name, _registered(xdit.ATTENTION_FUNCTION_REGISTRY[kind])


def _registered(function: Any) -> Kernel:
    def kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
        out, log_sum_exp = function(query, key, value, dropout_p=0.0, is_causal=False)
        return out, log_sum_exp.narrow(-1, 0, query.shape[2])  # some round the length up

    return kernel


def measure(name: str, kernel: Kernel, shape: Shape, device: torch.device, dtype: torch.dtype) -> Measured:
    """One kernel at one shape, compared with float64 at rows of every head, the last ones among them.

    Raises:
        RuntimeError, NotImplementedError, TypeError, ImportError: it does not run here.
    """
    import torch

    heads, tokens, numbers = shape
    draw = torch.Generator(device).manual_seed(0)
    query, key, value = (torch.randn(1, *shape, generator=draw, device=device).to(dtype) for _ in range(3))
    with torch.inference_mode():
        out, log_sum_exp = kernel(query, key, value)[:2]
        seconds = _timed(lambda: kernel(query, key, value), device)
        half = _COMPARED_ROWS // 2
        rows = torch.cat([torch.arange(half), torch.arange(tokens - half, tokens)]).to(device)
        error, difference = 0.0, 0.0
        for head in range(heads):
            scores = query[0, head, rows].double() @ key[0, head].double().T / numbers**0.5
            exact = scores.softmax(-1) @ value[0, head].double()
            error = max(error, _largest(out[0, head, rows].double() - exact))
            if log_sum_exp is not None:
                difference = max(difference, _largest(log_sum_exp[0, head, rows].double() - scores.logsumexp(-1)))
    rate = 4 * heads * tokens**2 * numbers / seconds / 1e12
    return Measured(name, shape, seconds, rate, error, None if log_sum_exp is None else difference)


def _largest(difference: Tensor) -> float:
    """The largest absolute value; infinite where one is not a number."""
    found = float(difference.abs().max())
    return found if found == found else float("inf")


def _timed(work: Callable[[], object], device: torch.device) -> float:
    import torch

    seconds = []
    for _ in range(_ROUNDS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
