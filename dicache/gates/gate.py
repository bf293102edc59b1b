"""The interface of a gate: it decides from the agreed sums of a step whether the step may be skipped.

Each published rule has a module of its own in this package.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from dicache.estimators.estimator import Estimate, Estimator
from dicache.request import CacheRequest
from dicache.settings import Settings
from dicache.steps import History, Lane, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class Vote:
    """A gate's answer for one lane. Other lanes and the user's limits can still turn a skip into a computed step."""

    skip: bool
    indicator: float | None = None
    """The gate's measure of change at this step, if it has one."""
    accumulated: float | None = None
    """The value that was compared with the threshold, if the gate accumulates over skipped steps."""


class Gate(Protocol):
    """A gate is a frozen value without state of its own. What it has to remember is in :class:`History`, so that every
    rank, and a resumed run, decides from the same numbers."""

    @property
    def sums(self) -> tuple[Sum, ...]:
        """What :meth:`vote` needs to have measured, beyond the estimator's own sums."""
        ...

    def may_skip(self, step: Step, lane: Lane) -> bool:
        """Whether the step could be skipped, as far as is known before anything is measured. If it is False, the step
        is computed without a measurement."""
        ...

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        """Vote on a step that may be skipped. At least one step has been computed before.

        Args:
            sums: the values of all sums of the method whose operands exist at this step.
            estimate: what the estimator would do if the step were skipped.
        """
        ...


class GateSettings(Settings):
    """Base of the settings of a gate, the section ``cache.gate``, from which the gate is built."""

    name: str
    shared_keys: ClassVar[frozenset[str]] = frozenset({"quality", "threshold", "warmup_ratio", "warmup_steps"})
    needs_weights_that_add_up: ClassVar[bool] = False
    """Whether its formula takes the estimator's coefficients to add up to 1. Other estimators are refused."""

    @abstractmethod
    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        """
        Args:
            estimator: the one that goes with it.

        Raises:
            ValueError: the settings do not fit the request, or what they need is not there; one sentence.
        """

    def warmup_steps(self, request: CacheRequest) -> int:
        """The number of leading steps of ``request.span`` that are computed without asking the gate.

        Raises:
            ValueError: as :meth:`build`.
        """
        return request.warmup_steps

    def recommended(self) -> Mapping[str, Any]:
        """Values of keys of the cache section, as the gate's authors publish them for all models, where they differ
        from DiCache's."""
        return {}

    def numbers(self) -> Mapping[str, object] | None:
        """The published numbers that the gate chooses from, by model; None if it needs none or was given its own."""
        return None


def relative(change: float, size: float) -> float:
    """``change / size``. If ``size`` is 0, it is 0 for no change and infinite for any change, so that the step is
    computed."""
    if size == 0:
        return 0.0 if change == 0 else math.inf
    return change / size
