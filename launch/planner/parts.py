"""Seconds by what they are spent on."""

from __future__ import annotations

from collections import defaultdict

Parts = defaultdict[str, float]


def parts_of(**seconds: float) -> Parts:
    """The given parts; all others are 0."""
    return defaultdict(float, seconds)


def add(*weighted: tuple[Parts, float]) -> Parts:
    """The sum of parts, each times its weight."""
    total = parts_of()
    for parts, weight in weighted:
        for name, seconds in parts.items():
            total[name] += weight * seconds
    return total
