"""When, as MagCache says (Ma et al., arXiv 2506.09045): a table of how residuals shrink from step to step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dicache.estimators.estimator import Estimate
from dicache.gates.gate import Vote
from dicache.steps import History, Lane, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class MagCacheGate:
    """MagCache (``magcache_generate.py`` of Zehong-Ma/MagCache). It measures nothing.

    With γᵢ the ratio of the sizes of the residuals of steps i and i - 1, the residual of the last computed step l is
    off by |1 - γₗ₊₁ … γₜ| at step t. These errors accumulate over skipped steps; a step is skipped while the
    accumulated error is under the threshold (or at it, if ``inclusive``). The authors' K, the most skips in a row, is
    ``max_consecutive_skips``.
    """

    threshold: float
    ratios: Mapping[str, tuple[float, ...]]
    """γ of every step of the request, for each guidance branch."""
    inclusive: bool = False
    sums: ClassVar[tuple[Sum, ...]] = ()

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        ratios = self.ratios[history.lane.branch]
        error = abs(1.0 - math.prod(ratios[history.computed[-1].index + 1 : step.index + 1]))
        accumulated = history.accumulated + error
        skip = accumulated <= self.threshold if self.inclusive else accumulated < self.threshold
        return Vote(skip, error, accumulated)
