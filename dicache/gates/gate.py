"""When: gates say, from the agreed sums of a step, whether it may be skipped.

A gate is a frozen value without state of its own; what it needs to remember is in :class:`History`, so that
all ranks, and a resumed run, see the same. Those of TeaCache, MagCache and EasyCache are in modules of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dicache.estimators.estimator import Estimate
from dicache.steps import History, Lane, Step
from dicache.sums import AbsoluteSum, Operand, Sum


@dataclass(frozen=True)
class Vote:
    """A gate's answer for one lane; other lanes and the limits can still turn a skip into a computed step."""

    skip: bool
    indicator: float | None = None
    accumulated: float | None = None


class Gate(Protocol):
    @property
    def sums(self) -> tuple[Sum, ...]:
        """What :meth:`vote` wants to know, beyond the estimator's own sums."""
        ...

    def may_skip(self, step: Step, lane: Lane) -> bool:
        """What is known before anything is measured: False spares measuring."""
        ...

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        """Vote on a step that may be skipped; at least one step has been computed before.

        Args:
            sums: all sums of the method whose operands exist by now.
            estimate: what the estimator would do if the step were skipped.
        """
        ...


@dataclass(frozen=True)
class ProbeGate:
    """DiCache's online probe (Bu et al., arXiv 2508.17356, "Online Probe Profiling Scheme").

    The relative L1 change of the probe from the previous step, Σ|probe - probe_prev| / Σ|probe_prev|,
    accumulates over skipped steps; a step is skipped while the accumulated change is under the threshold.
    The authors' code skips at the threshold itself as well for HunyuanVideo, and does not for Wan.
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


@dataclass(frozen=True)
class FirstBlockGate:
    """First-block cache (ParaAttention; ``diffusers.hooks.FirstBlockCacheConfig``; DBCache of cache-dit).

    The relative L1 change of the probe residual p from the last *computed* step, Σ|p₋₁ - p| / Σ|p₋₁|;
    a step is skipped under the threshold, nothing accumulates.
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


@dataclass(frozen=True)
class FixedGate:
    """Skips the listed steps of each lane, whatever the data."""

    skips: Mapping[Lane, frozenset[int]]
    """Step indices to skip; a lane that is not listed is never skipped."""
    sums: ClassVar[tuple[Sum, ...]] = ()

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return step.index in self.skips.get(lane, ())

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        return Vote(skip=True)


def relative(change: float, size: float) -> float:
    """``change / size``; no change of nothing is 0, any change of nothing is infinite, so it is computed."""
    if size == 0:
        return 0.0 if change == 0 else math.inf
    return change / size
