"""The gate of schedules that are known before the run: an interval, a list of steps, or a replayed report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dicache.estimators.estimator import Estimate
from dicache.gates.gate import Vote
from dicache.steps import History, Lane, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class FixedGate:
    """Skips the listed steps of each lane, whatever the data. It measures nothing."""

    skips: Mapping[Lane, frozenset[int]]
    """Indices of the steps to skip. A lane that is not listed is never skipped."""
    sums: ClassVar[tuple[Sum, ...]] = ()

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return step.index in self.skips.get(lane, ())

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        return Vote(skip=True)
