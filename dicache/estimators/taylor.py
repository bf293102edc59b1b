"""The estimator of TaylorSeer (Liu et al., arXiv 2503.06923)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dicache.estimators.estimator import Estimate
from dicache.estimators.series import Clock, extrapolate
from dicache.steps import History, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class Taylor:
    """Taylor series of first or second order: r̂ = r₋₁ + k Δ¹ + k²/2 Δ².

    k is the time since the last computed step, Δ¹ = (r₋₁ - r₋₂) / g₁ and Δ² = (Δ¹ - Δ¹ of the computed step before)
    / g₁, where g₁ is the time between the last two computed steps. With fewer computed steps the order is lower; after
    the first it is plain reuse.

    Args:
        order: 1 or 2.
        clock: what time is counted in: steps, as published, or the sampler's noise level.
    """

    order: int = 1
    clock: Clock = "step"
    sums: ClassVar[tuple[Sum, ...]] = ()

    @property
    def depth(self) -> int:
        return self.order + 1

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        return extrapolate(step, history, self.clock, [lambda k: k, lambda k: k**2][: self.order])
