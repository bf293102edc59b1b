"""The gate of EasyCache (Zhou et al., arXiv 2507.02860): it looks at latents and velocities, and at no block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote, relative
from dicache.request import CacheRequest
from dicache.steps import History, Lane, Step
from dicache.sums import AbsoluteSum, Operand, Sum

LEADER = "cond"
"""The guidance branch that decides for both branches."""


class EasyCacheSettings(GateSettings):
    """``cache.gate`` of EasyCache: it has no keys of its own."""

    name: Literal["easycache"] = "easycache"

    def recommended(self) -> Mapping[str, Any]:
        return {"threshold": 0.05, "warmup_ratio": None, "warmup_steps": 10, "force_last": True}

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        return EasyCacheGate(request.threshold)


@dataclass(frozen=True)
class EasyCacheGate:
    """EasyCache (``easycache_generate.py`` of H-EmbodVis/EasyCache).

    k = Σ|v₋₁ - v₋₂| / Σ|x₋₁ - x₋₂| is the change of the velocity v relative to that of the latents x between the last
    two computed steps. k Σ|x - x_prev| / Σ|v₋₁|, x_prev being the latents of the previous step, accumulates over
    skipped steps. A step is skipped while the sum is under the threshold. With fewer than two computed steps it is
    computed. The cond branch decides; the other branch always votes for a skip.
    """

    threshold: float
    moved: ClassVar = AbsoluteSum(Operand("latents", 0), Operand("latents", 1))
    size: ClassVar = AbsoluteSum(Operand("velocity", 1))
    output_change: ClassVar = AbsoluteSum(Operand("velocity", 1), Operand("velocity", 2))
    input_change: ClassVar = AbsoluteSum(Operand("computed_latents", 1), Operand("computed_latents", 2))
    sums: ClassVar[tuple[Sum, ...]] = (moved, size, output_change, input_change)

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        if len(history.computed) < 2:
            return Vote(skip=False)
        if history.lane.branch != LEADER:
            return Vote(skip=True)
        rate = relative(sums[self.output_change], sums[self.input_change])
        indicator = rate * relative(sums[self.moved], sums[self.size])
        accumulated = history.accumulated + indicator
        return Vote(accumulated < self.threshold, indicator, accumulated)
