"""Settings by model: what authors publish for one model, and which settings a quality stands for.

Keys are those of the cache section, with dots. Sources as in ``published/polynomials.py`` and
``published/magnitudes.py``; DiCache: arXiv 2508.17356 and Bujiazi/DiCache at
dd7f0de; EasyCache: H-EmbodVis/EasyCache at 5127804; FBCache: chengzeyi/ParaAttention at 4de137c.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dicache.config import CacheConfig, Quality
from dicache.gates.teacache import TeaCacheSettings
from dicache.pairs import PAIRS, MethodName, method_of_gate

_Values = Mapping[str, Any]

# by the beginning of a model's name, the longest first: what differs from the method's own defaults
_OF_MODELS: tuple[tuple[str, Mapping[str, _Values]], ...] = (
    (
        "Wan2.1-T2V-1.3B",
        {"dicache": {"threshold": 0.2}, "teacache": {"threshold": 0.08}, "teacache, retention": {"threshold": 0.1}},
    ),
    ("Wan2.1-T2V-14B", {"teacache": {"threshold": 0.2}, "teacache, retention": {"threshold": 0.2}}),
    ("Wan2.1-I2V-14B-480P", {"teacache": {"threshold": 0.26}, "teacache, retention": {"threshold": 0.3}}),
    ("Wan2.1-I2V-14B-720P", {"teacache": {"threshold": 0.3}, "teacache, retention": {"threshold": 0.3}}),
    ("Wan", {"dicache": {"threshold": 0.08}}),
    (
        "HunyuanVideo",
        {
            "dicache": {"threshold": 0.1, "gate.at_threshold": "skip"},
            "alignment": {"estimator.gamma_max": 1.5},
            "fbcache": {"threshold": 0.06},
            "teacache": {"threshold": 0.1},
            "magcache": {"threshold": 0.24, "max_consecutive_skips": 6},
            "easycache": {"threshold": 0.025, "warmup_ratio": None, "warmup_steps": 5},
        },
    ),
)

_STEPS_SKIPPED: Mapping[Quality, float] = {"draft": 0.75, "standard": 0.65, "high": 0.5}
_INTERVALS: Mapping[Quality, int] = {"draft": 4, "standard": 3, "high": 2}
_FACTORS: Mapping[Quality, float] = {"draft": 2.0, "standard": 1.0, "high": 0.5}

# thresholds that came nearest to these shares on a few held-out prompts, 50 UniPC steps, shift 3 (docs/methods.md)
_MEASURED: Mapping[str, Mapping[str, Mapping[Quality, float]]] = {
    "tiny-wan": {
        "innovation": {"draft": 0.014, "standard": 0.005, "high": 0.0018},
        "dicache": {"draft": 0.4, "standard": 0.14, "high": 0.065},
        "fbcache": {"draft": 0.109, "standard": 0.071, "high": 0.046},
        "dbcache": {"draft": 0.226, "standard": 0.095, "high": 0.052},
        "easycache": {"draft": 0.4, "standard": 0.071, "high": 0.025},
        "teacache": {"draft": 0.1, "standard": 0.05, "high": 0.03},  # with a calibration's polynomial
    }
}


_BEST: Mapping[str, MethodName] = {"tiny-wan": "innovation"}
"""The best method by model, of those that need no calibration, by the measurements in docs/methods.md."""
_BEST_PUBLISHED: MethodName = "dicache"
"""The method for models on which nothing was measured here: its authors measured it on most of them."""


def best_uncalibrated(names: Sequence[str]) -> tuple[MethodName, str]:
    """The method that `auto` takes without a calibration, and why.

    Args:
        names: under which the model may have been published.
    """
    if best := next((_BEST[name] for name in names if name in _BEST), None):
        return best, "this was measured to be the best here of those that need none"
    return _BEST_PUBLISHED, "of those that need none, this is published for most models"


def for_model(cache: CacheConfig, names: Sequence[str]) -> dict[str, Any]:
    """Settings that the authors of the method publish for this model instead of their general ones.

    Args:
        names: under which the model may have been published. If there are several, only what they have in common is
            returned.
    """
    named = getattr(cache.gate, "published", None)
    found = [_of_model(cache, name) for name in ([named] if named else names)]
    return {key: value for key, value in (found or [{}])[0].items() if all(other.get(key) == value for other in found)}


def for_quality(cache: CacheConfig, quality: Quality, names: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The settings that a quality stands for, and the reason as a fragment of a sentence.

    Args:
        cache: a section with the settings of :func:`for_model` in it, and without the quality.
    """
    share = _STEPS_SKIPPED[quality]
    if cache.gate_name == "calibrated":
        return {"gate.steps_skipped": share}, f"steps_skipped {share:g}"
    if cache.gate_name == "interval":
        interval = _INTERVALS[quality]
        return {"gate.interval": interval}, f"interval {interval}"
    owner = _owner(cache)
    measured = next((_MEASURED[name].get(owner) for name in names if name in _MEASURED), None)
    if measured:
        reason = f"threshold {measured[quality]:g}, with which about {share:.0%} of 50 steps were skipped on this model"
        return {"threshold": measured[quality]}, reason
    threshold = round(_FACTORS[quality] * (cache.threshold or 0.0), 6)
    found: dict[str, Any] = {"threshold": threshold}
    if cache.gate_name == "magcache" and quality == "draft":
        found["max_consecutive_skips"] = max(6, cache.max_consecutive_skips or 0)  # as in the authors' fast setting
    published = "as published" if quality == "standard" else f"{_FACTORS[quality]:g} times the published one"
    return found, f"threshold {threshold:g}, {published}"


def _of_model(cache: CacheConfig, name: str) -> dict[str, Any]:
    wanted = (_owner(cache), "alignment" if cache.estimator_name in ("alignment", "projection") else "")
    found: dict[str, Any] = {}
    for key in wanted:
        rows = (rows[key] for prefix, rows in _OF_MODELS if name.startswith(prefix) and key in rows)
        found |= next(rows, {})
    return found


def _owner(cache: CacheConfig) -> str:
    """The method on whose scale the gate's threshold is."""
    own = cache.method in PAIRS and cache.gate_name == PAIRS[cache.method].gate
    owner = cache.method if own else method_of_gate(cache.gate_name) or ""
    retention = isinstance(cache.gate, TeaCacheSettings) and cache.gate.use_ret_steps
    return "teacache, retention" if retention else owner
