"""Faults of a machine, of its kernels, cards and links, put into this process."""

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Patch(Protocol):
    """pytest's MonkeyPatch is one."""

    def setattr(self, target: Any, name: str, value: Any) -> None: ...


def wrong_log_sum_exp(patch: Patch) -> None:
    from parallel import kernel_calls

    kernel = kernel_calls.cpu_flash_attention()

    def wrong(*tensors: Any, **others: Any) -> Any:
        out, log_sum_exp, *rest = kernel(*tensors, **others)
        return (out, log_sum_exp + 0.01, *rest)

    patch.setattr(kernel_calls, "cpu_flash_attention", lambda: wrong)


def broken_kernel(patch: Patch) -> None:
    """The last key of an odd length is left out."""
    from parallel import kernel_calls

    kernel = kernel_calls.cpu_flash_attention()

    def broken(query: Any, key: Any, value: Any, *others: Any) -> Any:
        kept = key.shape[2] - key.shape[2] % 2
        return kernel(query, key[:, :, :kept], value[:, :, :kept], *others)

    patch.setattr(kernel_calls, "cpu_flash_attention", lambda: broken)


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To 10 bits of mantissa, as TF32 has."""
    if tensor.dtype != torch.float32:
        return tensor
    return ((tensor.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def tf32(patch: Patch) -> None:
    linear, product = torch.nn.functional.linear, torch.Tensor.__matmul__
    patch.setattr(
        torch.nn.functional, "linear", lambda x, weight, bias=None: linear(_rounded(x), _rounded(weight), bias)
    )
    patch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(_rounded(a), _rounded(b)))


def slow_link(patch: Patch) -> None:
    import torch.distributed as dist

    def slowed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_call(*arguments: Any, **others: Any) -> Any:
            time.sleep(0.1)
            return call(*arguments, **others)

        return wait_and_call

    for name in ("all_reduce", "all_to_all_single", "send"):
        patch.setattr(dist, name, slowed(getattr(dist, name)))


def slow_card(patch: Patch) -> None:
    from engine.execution import peak

    measure = peak.measure_peak_flops
    share = 0.01 if os.environ.get("RANK") == "1" else 1.0
    patch.setattr(peak, "measure_peak_flops", lambda *given: share * measure(*given))
