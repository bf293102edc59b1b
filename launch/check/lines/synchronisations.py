"""How often the host waits for the device in one denoise step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from launch.check.finding import Finding, judged, not_here
from launch.check.limits import SYNCHRONISATIONS
from launch.check.site import Site
from launch.check.video import config_for, loaded, make, request_of

_STEP = 6


def synchronisations(site: Site) -> Finding:
    """A step under torch's debug mode, which warns of each synchronisation."""
    if site.kind != "cuda":
        return not_here("there is no GPU: the CPU does what it is told before it goes on")
    import torch

    found = count(site, torch.cuda.set_sync_debug_mode)
    limit = SYNCHRONISATIONS.on(site.kind)
    short = [f"{found} are above {limit:g}: {SYNCHRONISATIONS.reason}"] if found > limit else []
    return judged(short, f"{found} in a step", f"at most {limit:g}: {SYNCHRONISATIONS.reason}")


def count(site: Site, set_mode: Callable[[str], None]) -> int:
    """Warnings of a synchronisation from the velocity of one step to that of the next.

    Args:
        set_mode: :func:`torch.cuda.set_sync_debug_mode`.
    """
    config = config_for(site, dtype="bfloat16")
    caught: list[Any] = []

    def on_velocity(step: Any, branches: Any) -> None:
        if step.index == _STEP:
            set_mode("warn")
        elif step.index == _STEP + 1:
            set_mode("default")
            caught.extend(heard)

    with loaded(config) as engine, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            make(engine, request_of(config), on_velocity=on_velocity)
        finally:
            set_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
