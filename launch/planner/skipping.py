"""The share of steps that a cache is assumed to skip, and where the assumption comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dicache.config import CacheConfig

_PUBLISHED: Mapping[str, tuple[float, str]] = {
    # a speed-up g with one probe block of n: 1 - 1/g of the blocks is left out
    "dicache": (0.60, "DiCache's authors report 2.45 times for Wan 2.1 1.3B, 2.34 for HunyuanVideo (arXiv 2508.17356)"),
    "easycache": (0.55, "EasyCache's authors report 2.2 to 2.5 times for HunyuanVideo and Wan 2.1 1.3B"),
    "magcache": (0.54, "MagCache's authors report 2.14 to 2.25 times with the slow setting (arXiv 2506.09045)"),
    "teacache": (0.45, "DiCache's authors measured TeaCache at 1.65 to 2.2 times (arXiv 2508.17356)"),
    "fbcache": (0.40, "ParaAttention reports 1.62 times for HunyuanVideo on one L20"),
    "dbcache": (0.40, "as for fbcache, which it extends"),
    "innovation": (0.65, "what `quality: standard` stands for; nothing is published for it"),
}  # fmt: skip
_OF_QUALITY = {"draft": 0.75, "standard": 0.65, "high": 0.5}
_SMALL_MODEL = (0.58, "measured on the small model at the shipped threshold (docs/benchmarks.md)")
_SHIPPED_THRESHOLD = 0.1
_UNKNOWN = (0.5, "assumed: nothing is known of this method's share; --skip-share gives another")


@dataclass(frozen=True)
class Skipping:
    """What a cache does to the steps of one video."""

    share: float
    """Of all steps that are skipped."""
    source: str
    """Where that number comes from."""
    probe_blocks: int = 0
    last_blocks: int = 0


NEVER = Skipping(0.0, "the configuration has no cache")


def find_skipping(
    cache: CacheConfig, steps: int, experts: int, *, is_small_model: bool, share: float | None
) -> Skipping:
    """What the configuration's cache is assumed to skip.

    Args:
        experts: each has a warm-up of its own.
        share: as the user gives it, or None.
    """
    if cache.method == "none":
        return NEVER
    probe, last = cache.probe_depth or 0, cache.last_blocks or 0
    if share is not None:
        return Skipping(share, "as given with --skip-share", probe, last)
    found, source = _assumed(cache, steps, experts, is_small_model)
    return Skipping(min(found, _possible(cache, steps, experts)), source, probe, last)


def _assumed(cache: CacheConfig, steps: int, experts: int, is_small_model: bool) -> tuple[float, str]:
    method = "dicache" if cache.method == "auto" else cache.method
    if cache.gate is not None and cache.gate.name == "interval":
        return _of_interval(cache, steps, experts), "the configuration's interval, which does not depend on the video"
    listed = getattr(cache.gate, "compute_steps", None)
    if listed is not None:
        return 1 - len({index for index in listed if index < steps} | {0}) / steps, "the configuration's list of steps"
    asked = getattr(cache.gate, "steps_skipped", None)
    if asked is not None:
        return float(asked), "the configuration's cache.gate.steps_skipped"
    if cache.quality:
        return _OF_QUALITY[cache.quality], f"what `quality: {cache.quality}` stands for"
    if is_small_model and method == "dicache" and cache.threshold == _SHIPPED_THRESHOLD:
        return _SMALL_MODEL
    return _PUBLISHED.get(method, _UNKNOWN)


def _of_interval(cache: CacheConfig, steps: int, experts: int) -> float:
    listed = getattr(cache.gate, "compute_steps", None)
    if listed is not None:
        return 1 - len({index for index in listed if index < steps} | {0}) / steps
    span = steps // experts
    warmup = _warmup(cache, span)
    computed = {*range(warmup), *range(max(warmup, 1) - 1, span, getattr(cache.gate, "interval", 2))}
    return 1 - len(computed) / span


def _possible(cache: CacheConfig, steps: int, experts: int) -> float:
    """The largest share that the warm-up and the computed first step of each expert leave."""
    span = max(1, steps // experts)
    return 1 - max(1, _warmup(cache, span)) / span


def _warmup(cache: CacheConfig, span: int) -> int:
    if cache.warmup_steps is not None:
        return min(cache.warmup_steps, span)
    return int((cache.warmup_ratio or 0.0) * span)
