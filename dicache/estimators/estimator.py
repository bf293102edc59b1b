"""How: estimators say, from the agreed sums of a step, how residuals of computed steps make up a skipped one.

Every estimate has the form anchor + Σ cᵢ r₋ᵢ, with r₋₁ the residual of the newest computed step; an estimator
only returns the cᵢ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dicache.steps import History, Step
from dicache.sums import AbsoluteSum, Operand, Sum


@dataclass(frozen=True)
class Estimate:
    coefficients: tuple[float, ...]
    """Weights of r₋₁, r₋₂, …: as many as there are computed steps to use, at most the estimator's depth."""
    gamma: float | None = None
    """For the report, if the estimator aligns."""


class Estimator(Protocol):
    @property
    def sums(self) -> tuple[Sum, ...]:
        """What :meth:`estimate` wants to know."""
        ...

    @property
    def depth(self) -> int:
        """How many residuals it combines at most."""
        ...

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        """Weigh the residuals for a step that may be skipped; at least one step has been computed before.

        Args:
            sums: all sums of the method whose operands exist by now.
        """
        ...


@dataclass(frozen=True)
class NoEstimate:
    """For a gate that never skips: nothing is kept."""

    depth: ClassVar[int] = 0
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        raise AssertionError("a method that never skips is never asked for an estimate")


@dataclass(frozen=True)
class Reuse:
    """The residual of the last computed step."""

    depth: ClassVar[int] = 1
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        return Estimate((1.0,))


@dataclass(frozen=True)
class Alignment:
    """DiCache's trajectory alignment (Bu et al., arXiv 2508.17356, "Dynamic Cache Trajectory Alignment").

    r̂ = r₋₂ + gamma (r₋₁ - r₋₂) with gamma = Σ|p - p₋₂| / Σ|p₋₁ - p₋₂|, clipped; p are probe residuals.
    With one computed step it is reuse. Where the two computed probes do not differ there is no direction to
    measure along, and gamma is ``gamma_min``.
    """

    gamma_min: float
    gamma_max: float
    depth: ClassVar[int] = 2
    travelled: ClassVar = AbsoluteSum(Operand("probe_residual", 0), Operand("probe_residual", 2))
    known: ClassVar = AbsoluteSum(Operand("probe_residual", 1), Operand("probe_residual", 2))
    sums: ClassVar[tuple[Sum, ...]] = (travelled, known)

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        if len(history.computed) < 2:
            return Estimate((1.0,))
        ratio = sums[self.travelled] / sums[self.known] if sums[self.known] else self.gamma_min
        gamma = min(max(self.gamma_min, ratio), self.gamma_max)
        return Estimate((gamma, 1.0 - gamma), gamma)
