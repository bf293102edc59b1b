"""DiCache's alignment with an orthogonal projection in the place of a ratio of sizes. Lockstep's own variant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dicache.estimators.estimator import AlignedSettings, Estimate, Estimator
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import InnerSum, Operand, Sum

_P = tuple(Operand("probe_residual", age) for age in range(3))


class ProjectionSettings(AlignedSettings):
    """``cache.estimator`` of the projection."""

    name: Literal["projection"] = "projection"

    def build(self, request: CacheRequest) -> Estimator:
        return Projection(self.gamma_min, self.gamma_max)


@dataclass(frozen=True)
class Projection:
    """r̂ = r₋₂ + gamma (r₋₁ - r₋₂), gamma being the least-squares solution of p - p₋₂ ≈ gamma (p₋₁ - p₋₂).

    gamma = ⟨p - p₋₂, d⟩ / ⟨d, d⟩ with d = p₋₁ - p₋₂, clipped to [gamma_min, gamma_max]; p are probe residuals. Unlike
    the ratio of sizes it takes the direction of the change into account. With one computed step it is plain reuse. If
    the two computed probes do not differ, gamma is ``gamma_min``.
    """

    gamma_min: float
    gamma_max: float
    depth: ClassVar[int] = 2
    travelled: ClassVar = InnerSum((_P[0], _P[2]), (_P[1], _P[2]))
    known: ClassVar = InnerSum((_P[1], _P[2]), (_P[1], _P[2]))
    sums: ClassVar[tuple[Sum, ...]] = (travelled, known)

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        if len(history.computed) < 2:
            return Estimate((1.0,))
        ratio = sums[self.travelled] / sums[self.known] if sums[self.known] else self.gamma_min
        gamma = min(max(self.gamma_min, ratio), self.gamma_max)
        return Estimate((gamma, 1.0 - gamma), gamma)
