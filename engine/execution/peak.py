"""How fast this device multiplies matrices: what a share of the peak is a share of."""

import time
from collections.abc import Callable
from statistics import median

import torch

_CUDA_SIZE, _CUDA_WARMUP, _CUDA_ROUNDS = 8192, 5, 20
_CPU_SIZES, _CPU_LONG_SECONDS, _CPU_ROUNDS = (128, 256, 512, 1024, 2048, 4096), 0.04, 7


@torch.inference_mode()
def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product on this device, the median of several; a multiplication and an addition
    are two.

    On CUDA the matrices have 8192 rows, and the time is the device's, after some rounds that warm it up. On the CPU the
    size doubles until one product takes 40 ms or has 4096 rows, and torch uses as many threads as it does elsewhere:
    this takes about half a second. With several ranks on one machine all of them have to measure at the same time, or
    the peak is one that they do not have together.

    Args:
        dtype: of the transformer's blocks. float32 on CUDA is measured with TF32 where torch is set to it.
    """
    if device.type == "cuda":
        return _on_cuda(device, dtype)
    seconds, size = 0.0, 0
    multiply: Callable[[], object] = bool
    for size in _CPU_SIZES:
        multiply = _product(size, device, dtype)
        multiply()
        seconds = _timed(multiply)
        if seconds >= _CPU_LONG_SECONDS:
            break
    rounds = [seconds, *(_timed(multiply) for _ in range(_CPU_ROUNDS - 1))]
    return 2 * size**3 / median(rounds)


def _on_cuda(device: torch.device, dtype: torch.dtype) -> float:
    multiply = _product(_CUDA_SIZE, device, dtype)
    for _ in range(_CUDA_WARMUP):
        multiply()
    seconds = []
    for _ in range(_CUDA_ROUNDS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        multiply()
        stop.record()
        stop.synchronize()
        seconds.append(start.elapsed_time(stop) / 1000)
    return 2 * _CUDA_SIZE**3 / median(seconds)


def _product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """A product of two matrices, into memory that it has already. Values are random: a GPU needs less power, and keeps
    a higher clock, for zeros."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
