"""What gates and estimators are built for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicache.steps import Lane


@dataclass(frozen=True)
class CacheRequest:
    """A request as far as the cache is concerned, and the settings that gates and estimators share."""

    lanes: Sequence[Lane]
    """All lanes of the request."""
    num_steps: int
    """Denoise steps of the request."""
    span: range
    """Consecutive steps at which the method is asked: all of them, or those of one of two transformers."""
    published: Sequence[str] = ()
    """The published models that the model may be, by the names in :mod:`dicache.published.polynomials` and
    :mod:`dicache.published.magnitudes`."""
    shift: float | None = None
    """Flow shift of the sampler; None for that of the authors of such numbers."""
    threshold: float = 0.0
    """``cache.threshold``; 0 for gates without one."""
    warmup_steps: int = 0
    """Leading steps of the span that are always computed, by ``cache.warmup_ratio`` or ``cache.warmup_steps``."""
    calibration: Path | None = None
    """``cache.calibration``."""
