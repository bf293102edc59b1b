"""Plain reuse of the last computed step, the estimator of most published methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import Sum


class ReuseSettings(EstimatorSettings):
    """``cache.estimator`` of plain reuse: it has no keys of its own."""

    name: Literal["reuse"] = "reuse"

    def build(self, request: CacheRequest) -> Estimator:
        return Reuse()


@dataclass(frozen=True)
class Reuse:
    """r̂ = r₋₁."""

    depth: ClassVar[int] = 1
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        return Estimate((1.0,))
