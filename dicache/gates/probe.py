"""The gate of DiCache (Bu et al., arXiv 2508.17356, "Online Probe Profiling Scheme")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote, relative
from dicache.request import CacheRequest
from dicache.steps import History, Lane, Step
from dicache.sums import AbsoluteSum, Operand, Sum


class ProbeSettings(GateSettings):
    """``cache.gate`` of DiCache's probe."""

    name: Literal["probe"] = "probe"
    at_threshold: Literal["compute", "skip"] = Field(
        "compute",
        description="If the change is exactly the threshold: skip as published for HunyuanVideo, else not.",
    )
    shared_keys: ClassVar[frozenset[str]] = GateSettings.shared_keys | {"probe_depth"}
    method_keys: ClassVar[frozenset[str]] = frozenset({"at_threshold"})

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        return ProbeGate(request.threshold, inclusive=self.at_threshold == "skip")


@dataclass(frozen=True)
class ProbeGate:
    """Skips a step while the accumulated change of the probe is under the threshold.

    The relative L1 change of the probe from the previous step, Σ|probe - probe_prev| / Σ|probe_prev|, accumulates over
    skipped steps. The probe is the output of the first ``cache.probe_depth`` blocks. The authors' code also skips at
    the threshold itself for HunyuanVideo, and does not for Wan.
    """

    threshold: float
    inclusive: bool = False
    """Skip at the threshold itself, too."""
    change: ClassVar = AbsoluteSum(Operand("probe", 0), Operand("probe", 1))
    size: ClassVar = AbsoluteSum(Operand("probe", 1))
    sums: ClassVar[tuple[Sum, ...]] = (change, size)

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        indicator = relative(sums[self.change], sums[self.size])
        accumulated = history.accumulated + indicator
        skip = accumulated <= self.threshold if self.inclusive else accumulated < self.threshold
        return Vote(skip, indicator, accumulated)
