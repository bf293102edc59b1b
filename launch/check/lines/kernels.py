"""Attention kernels: outputs, log-sum-exps and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

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
    wrong, slow = shortfalls(found, site.kind), slow_shapes(found, site.kind, peak)
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
    return judged(wrong, figure, "; ".join([reason, *absent]), slow)


def shortfalls(found: Sequence[Measured], kind: str) -> list[str]:
    """What is wrong in some kernel."""
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
    return short


def slow_shapes(found: Sequence[Measured], kind: str, peak: float) -> list[str]:
    """Where the fastest kernel of a shape is slow.

    Args:
        peak: FLOP/s of matrix products.
    """
    short = []
    for shape in {each.shape for each in found}:
        best = max(each.rate for each in found if each.shape == shape)
        if best < (share := KERNEL_SHARE_OF_PEAK.on(kind)) * peak / 1e12:
            short.append(f"{list(shape)}: {best:.3g} TFLOP/s are under {share:g} of the rate of matrix products")
    return short


def kernels(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Kernel]]:
    """By name: what torch takes by itself, and each kernel of ``runtime.attention`` that this machine has, in the form
    that attention over ranks calls."""
    from torch.nn import functional

    from parallel.found_kernels import capability_of, find_kernels
    from parallel.kernel_calls import kernel_over_ranks
    from parallel.kernels import KERNELS, complaint_about
    from parallel.kernels import Site as Place

    yield "torch's choice", lambda query, key, value: (functional.scaled_dot_product_attention(query, key, value), None)
    found = find_kernels(device.type)
    alone = Place(device.type, str(dtype).removeprefix("torch."), capability=capability_of(device))
    in_a_ring = replace(alone, ring=2)
    for name in KERNELS:
        if complaint_about(name, alone, found) is None:
            kernel = kernel_over_ranks(name, device, dtype)
            yield name, kernel if complaint_about(name, in_a_ring, found) is None else _without_log_sum_exp(kernel)


def _without_log_sum_exp(kernel: Kernel) -> Kernel:
    """The same of a kernel that no ring takes, whose log-sum-exp is too coarse."""
    return lambda query, key, value: (kernel(query, key, value)[0], None)


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
