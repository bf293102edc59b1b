"""What both training loops share: learning rate, running average, saved state and the choice of precision."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SAVE_EVERY_SECONDS = 120.0

log = logging.getLogger("tiny_wan")


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(step: int, num_steps: int, peak: float, num_warmup_steps: int) -> float:
    """Linear warm-up to `peak`, then linear decay to zero."""
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    return peak * (num_steps - step) / max(1, num_steps - num_warmup_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def update_average(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight, 1 - decay)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes beside `path` and renames, so that a stop in the middle leaves the last state whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path) -> dict[str, Any] | None:
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None


def faster_precision(step: Callable[[torch.dtype], None], device: torch.device) -> torch.dtype:
    """Autocast dtype of the quicker step: CPUs without bf16 units are far slower in bf16."""
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        step(dtype)
        start = time.perf_counter()
        step(dtype)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[dtype] = time.perf_counter() - start
    log.info("one step: bf16 autocast %.3f s, fp32 %.3f s", seconds[torch.bfloat16], seconds[torch.float32])
    return min(seconds, key=lambda dtype: seconds[dtype])
