"""Copies of weights between the host and the device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launch.check.finding import Finding, judged
from launch.check.limits import PINNED_GIGABYTES
from launch.check.site import Site

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CUDA_BYTES, _CPU_BYTES = 5 * 10**9, 64 * 10**6
_TENSOR_BYTES = 10**8
_ROUNDS = 3


def copies(site: Site) -> Finding:
    """Weights of 5 GB go to the device and back, pageable and pinned; on the CPU 64 MB of memory are copied."""
    rates = measure(site.device, _CUDA_BYTES if site.kind == "cuda" else _CPU_BYTES)
    limit = PINNED_GIGABYTES.on(site.kind)
    judge = [name for name in rates if name.startswith("pinned")] or list(rates)
    short = [f"{name} is {rates[name]:.1f} GB/s, below {limit:g}" for name in judge if rates[name] < limit]
    figure = ", ".join(f"{name} {rate:.1f} GB/s" for name, rate in rates.items())
    return judged([], figure, f"{' and '.join(judge)} at least {limit:g} GB/s: {PINNED_GIGABYTES.reason}", short)


def measure(device: torch.device, num_bytes: int) -> dict[str, float]:
    """GB/s by kind of copy, the best of three rounds."""
    import torch

    count = max(1, num_bytes // _TENSOR_BYTES)
    pageable = [torch.zeros(num_bytes // count, dtype=torch.uint8) for _ in range(count)]
    there = [torch.empty_like(each, device=device) for each in pageable]
    if device.type == "cpu":
        return {"in memory": _rate(pageable, there, device)}
    rates = {
        "pageable to the device": _rate(pageable, there, device),
        "pageable back": _rate(there, pageable, device),
    }
    pinned = [each.pin_memory() for each in pageable]
    del pageable
    return rates | {"pinned to the device": _rate(pinned, there, device), "pinned back": _rate(there, pinned, device)}


def _rate(sources: list[Tensor], targets: list[Tensor], device: torch.device) -> float:
    import torch

    seconds = []
    for _ in range(_ROUNDS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source, non_blocking=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return sum(each.nbytes for each in sources) / min(seconds) / 1e9
