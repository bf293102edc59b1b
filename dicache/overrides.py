"""What still holds of a cache section in a file once the command line has overridden some of its keys."""

from collections.abc import Mapping
from typing import Any

from dicache.config import PAIRS

_OF_THE_GATE = (
    "threshold",
    "at_threshold",
    "warmup_ratio",
    "warmup_steps",
    "max_consecutive_skips",
    "max_skips",
    "force_last",
    "interval",
)
"""Each gate has these on a scale of its own."""
_HOW_MUCH = ("threshold", "interval", "steps_skipped", "compute_steps", "replay")
"""In the place of which a quality stands, or they in its."""
_OF_THE_METHOD = (*_OF_THE_GATE, "gate", "estimator", "anchor", "order", "compute_steps", "steps_skipped", "corrector")


def override(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The section with the changes in it, and without what it says for another method or gate than they leave.

    A file's threshold means nothing to another gate, so whoever overrides the method alone would get neither the
    file's settings nor those that the method's authors publish. Numbers for the model (ratios, polynomial, published,
    calibration), those of one estimator alone (gamma_max, ...), decide and probe_depth stay. A quality and a threshold
    take each other's place.
    """
    merged = {**section, **changes}
    dropped: set[str] = set()
    if _method(merged) != _method(section):
        dropped |= set(_OF_THE_METHOD)
    if _gate(merged) != _gate(section):
        dropped |= set(_OF_THE_GATE)
    if changes.get("quality") is not None:
        dropped |= {*_OF_THE_GATE, *_HOW_MUCH}
    elif changes.keys() & set(_HOW_MUCH):
        dropped.add("quality")
    return {key: value for key, value in section.items() if key not in dropped} | dict(changes)


def _method(section: Mapping[str, Any]) -> Any:
    return section.get("method") or "dicache"


def _gate(section: Mapping[str, Any]) -> Any:
    return section.get("gate") or next((gate for name, (gate, _) in PAIRS.items() if name == _method(section)), None)
