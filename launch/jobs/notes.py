"""The layout of the ranks in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from parallel.placement import Placement


def layout_notes(placement: Placement) -> list[str]:
    """The layout that was found for a run, and a line for each axis on why."""
    head, *reasons = describe_layout(placement)
    return [f"layout: {head[1]}", *(f"  {name}: {reason}" for name, reason in reasons)]


def describe_layout(placement: Placement) -> Iterator[tuple[str, str]]:
    """The layout and the reasons for it, as (label, text) pairs."""
    degrees = asdict(placement.degrees)
    above_one = ", ".join(f"{axis} {degree}" for axis, degree in degrees.items() if degree > 1)
    yield "layout", above_one or "one rank"
    for axis, reason in placement.reasons.items():
        if axis != "data" or degrees["data"] > 1 or "throughput" in reason:
            yield f"{axis} {degrees[axis]}", reason
