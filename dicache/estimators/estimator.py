"""The interface of an estimator: it combines what computed steps left behind into an estimate of a skipped step.

Every estimate has the form anchor + Σ cᵢ r₋ᵢ, where r₋₁ is the residual of the newest computed step, r₋₂ that of the
one before, and so on. An estimator only returns the coefficients cᵢ. Each published rule has a module of its own in
this package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dicache.steps import History, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class Estimate:
    """The coefficients of an estimate."""

    coefficients: tuple[float, ...]
    """Weights of r₋₁, r₋₂, …: as many as there are computed steps to use, at most the estimator's depth."""
    gamma: float | None = None
    """Alignment of DiCache, for the report; None for estimators without one."""


class Estimator(Protocol):
    """An estimator is a frozen value without state of its own, as a gate is."""

    @property
    def sums(self) -> tuple[Sum, ...]:
        """What :meth:`estimate` needs to have measured."""
        ...

    @property
    def depth(self) -> int:
        """The largest number of residuals that it combines."""
        ...

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        """Weigh the residuals for a step that may be skipped. At least one step has been computed before.

        Args:
            sums: the values of all sums of the method whose operands exist at this step.
        """
        ...
