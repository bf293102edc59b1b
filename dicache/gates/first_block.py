"""The gate of first-block cache (ParaAttention; ``diffusers.hooks.FirstBlockCacheConfig``; DBCache of cache-dit)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote, relative
from dicache.request import CacheRequest
from dicache.steps import History, Lane, Step
from dicache.sums import AbsoluteSum, Operand, Sum


class FirstBlockSettings(GateSettings):
    """``cache.gate`` of first-block cache: it has no keys of its own."""

    name: Literal["first_block"] = "first_block"
    shared_keys: ClassVar[frozenset[str]] = GateSettings.shared_keys | {"probe_depth"}

    def recommended(self) -> Mapping[str, Any]:
        return {"threshold": 0.05, "warmup_ratio": 0.0}

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        return FirstBlockGate(request.threshold)


@dataclass(frozen=True)
class FirstBlockGate:
    """Skips a step while the probe residual is near that of the last computed step.

    The relative L1 change of the probe residual p from the last *computed* step, Σ|p₋₁ - p| / Σ|p₋₁|, has to be under
    the threshold. Nothing accumulates.
    """

    threshold: float
    change: ClassVar = AbsoluteSum(Operand("probe_residual", 1), Operand("probe_residual", 0))
    size: ClassVar = AbsoluteSum(Operand("probe_residual", 1))
    sums: ClassVar[tuple[Sum, ...]] = (change, size)

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        indicator = relative(sums[self.change], sums[self.size])
        return Vote(indicator < self.threshold, indicator)
