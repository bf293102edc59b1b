"""The estimator of DiCache (Bu et al., arXiv 2508.17356, "Dynamic Cache Trajectory Alignment")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dicache.estimators.estimator import AlignedSettings, Estimate, Estimator
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import AbsoluteSum, Operand, Sum


class AlignmentSettings(AlignedSettings):
    """``cache.estimator`` of DiCache's alignment."""

    name: Literal["alignment"] = "alignment"

    def build(self, request: CacheRequest) -> Estimator:
        return Alignment(self.gamma_min, self.gamma_max)


@dataclass(frozen=True)
class Alignment:
    """r̂ = r₋₂ + gamma (r₋₁ - r₋₂), gamma being measured on the probe.

    gamma = Σ|p - p₋₂| / Σ|p₋₁ - p₋₂|, clipped to [gamma_min, gamma_max], where p are probe residuals. With one
    computed step it is plain reuse. If the two computed probes do not differ, there is no direction to measure along,
    and gamma is ``gamma_min``.
    """

    gamma_min: float
    gamma_max: float
    depth: ClassVar[int] = 2
    travelled: ClassVar = AbsoluteSum(Operand("probe_residual", 0), Operand("probe_residual", 2))
    known: ClassVar = AbsoluteSum(Operand("probe_residual", 1), Operand("probe_residual", 2))
    sums: ClassVar[tuple[Sum, ...]] = (travelled, known)

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        if len(history.computed) < 2:
            return Estimate((1.0,))
        ratio = sums[self.travelled] / sums[self.known] if sums[self.known] else self.gamma_min
        gamma = min(max(self.gamma_min, ratio), self.gamma_max)
        return Estimate((gamma, 1.0 - gamma), gamma)
