"""The estimator of TaylorSeer (Liu et al., arXiv 2503.06923)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.estimators.series import Clock, extrapolate
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import Sum


class TaylorSettings(EstimatorSettings):
    """``cache.estimator`` of TaylorSeer."""

    name: Literal["taylor"] = "taylor"
    order: int = Field(1, ge=1, le=2, description="Highest derivative: 2 keeps one residual more.")
    clock: Clock = Field("step", description="What time is counted in: steps as published, or noise levels.")
    method_keys: ClassVar[frozenset[str]] = frozenset({"order"})

    def build(self, request: CacheRequest) -> Estimator:
        return Taylor(self.order, self.clock)


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
