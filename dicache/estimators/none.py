"""The estimator of a method that never skips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dicache.estimators.estimator import Estimate
from dicache.steps import History, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class NoEstimate:
    """Keeps no residual and is never asked for an estimate."""

    depth: ClassVar[int] = 0
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        raise AssertionError("a method that never skips is never asked for an estimate")
