"""The gate of the innovation, Lockstep's own: the error that the estimate makes on the probe."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, ClassVar, Literal

from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote, relative
from dicache.request import CacheRequest
from dicache.steps import History, Lane, Step
from dicache.sums import InnerSum, Operand, SquareSum, Sum

NO_SIGNAL = 0.03
"""Added to the share of signal in the latents, 1 - σ, which is 0 at the first step, so that it can be divided by."""
SIZE = SquareSum(Operand("probe_residual", 1))


def _product(i: int, j: int) -> InnerSum:
    """⟨dᵢ, dⱼ⟩ of the forward differences dᵢ = p₋ᵢ - p₋₍ᵢ₊₁₎, p₀ being this step's probe residual."""
    p = [Operand("probe_residual", age) for age in (i, i + 1, j, j + 1)]
    return InnerSum((p[0], p[1]), (p[2], p[3]))


class InnovationSettings(GateSettings):
    """``cache.gate`` of the innovation: it has no keys of its own."""

    name: Literal["innovation"] = "innovation"
    shared_keys: ClassVar[frozenset[str]] = GateSettings.shared_keys | {"probe_depth"}
    needs_weights_that_add_up: ClassVar[bool] = True

    def recommended(self) -> Mapping[str, Any]:
        return {"threshold": 0.005, "warmup_ratio": None, "warmup_steps": 3}

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        return InnovationGate(request.threshold, estimator.depth)


@dataclass(frozen=True)
class InnovationGate:
    """Skips while the accumulated error of the estimate on the probe is under the threshold.

    The innovation is what was observed minus what was expected (Kalman 1960): here p - Σ cᵢ p₋ᵢ, where p is the probe
    residual and cᵢ are the weights that the estimator would give the residuals. ‖p - Σ cᵢ p₋ᵢ‖ / ‖p₋₁‖ times
    |σ - σ_next| / (1.03 - σ) accumulates over skipped steps. Other gates measure how much has changed; this one
    measures the error of the estimate itself. The second factor is the sampler's step relative to the share of signal
    in the latents, 1 - σ: an error has more effect while there is little signal.

    The weights add up to 1, so the innovation is d₀ - Σ aᵢ dᵢ with the forward differences dᵢ = p₋ᵢ - p₋₍ᵢ₊₁₎ and
    aᵢ = c₁ + … + cᵢ - 1. Its square follows from inner products of the dᵢ, which are summed in the same collective as
    the estimator's own sums.

    Args:
        depth: the largest number of residuals that the estimator combines.
    """

    threshold: float
    depth: int

    @property
    def sums(self) -> tuple[Sum, ...]:
        pairs = combinations_with_replacement(range(self.depth), 2)
        return (SIZE, *(_product(i, j) for i, j in pairs))

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        weights, total = [1.0], -1.0
        for coefficient in estimate.coefficients[:-1]:
            total += coefficient
            weights.append(-total)
        square = 0.0
        for i, j in combinations_with_replacement(range(len(weights)), 2):
            square += (1 if i == j else 2) * weights[i] * weights[j] * sums[_product(i, j)]
        miss = relative(math.sqrt(max(square, 0.0)), math.sqrt(sums[SIZE]))
        indicator = miss * abs(step.sigma - step.sigma_next) / (1.0 + NO_SIGNAL - step.sigma)
        accumulated = history.accumulated + indicator
        return Vote(accumulated < self.threshold, indicator, accumulated)
