"""The estimator of FoCa (Zheng et al., arXiv 2508.16211), as ``FoCaCalibrator`` of cache-dit has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import Sum


class FoCaSettings(EstimatorSettings):
    """``cache.estimator`` of FoCa: it has no keys of its own."""

    name: Literal["foca"] = "foca"

    def build(self, request: CacheRequest) -> Estimator:
        return FoCa()


@dataclass(frozen=True)
class FoCa:
    """Forecast, then calibrate: the mean of two slopes is followed.

    The slopes are that of the last two computed steps and that of the last two values, estimated ones included:
    r̂ₖ = r₋₁ + h(k) ((r₋₁ - r₋₂) + (r̂ₖ₋₁ - r̂ₖ₋₂)) for the k-th step after the last computed one, with r̂₀ = r₋₁ and
    r̂₋₁ = r₋₂. h(k) is k/2 for k ≤ 3 and 4.5/k beyond, which draws long estimates back to r₋₁. Slopes are differences,
    not divided by the distance of the steps. With one computed step it is plain reuse.

    Here the recursion starts from the two last computed steps after every computed step. cache-dit keeps the last
    estimate over a computed step and takes its first slope from it. Both agree where two steps in a row were computed
    before the skipped ones.
    """

    depth: ClassVar[int] = 2
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        if len(history.computed) < 2:
            return Estimate((1.0,))
        # every value has the form r₋₁ + w (r₋₁ - r₋₂), so w stands for it
        newer, older = 0.0, -1.0
        for k in range(1, step.index - history.computed[-1].index + 1):
            h = k / 2 if k <= 3 else 4.5 / k
            newer, older = h * (1.0 + newer - older), newer
        return Estimate((1.0 + newer, -newer))
