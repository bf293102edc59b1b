"""The estimator of HiCache (Feng et al., arXiv 2508.16984)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dicache.estimators.estimator import Estimate
from dicache.estimators.series import extrapolate
from dicache.steps import History, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class Hermite:
    """Scaled Hermite polynomials in the place of the powers of :class:`dicache.estimators.taylor.Taylor`.

    r̂ = r₋₁ + Σₙ Hₙ(k) Δⁿ / n!, with k and Δⁿ as there and time counted in steps. Hₙ(k) = sⁿ hₙ(s k), where hₙ are the
    physicists' Hermite polynomials h₁(x) = 2x and h₂(x) = 4x² - 2, and s is the contraction.

    Args:
        order: 1 or 2.
        contraction: s, above 0.
    """

    order: int = 2
    contraction: float = 0.5
    sums: ClassVar[tuple[Sum, ...]] = ()

    @property
    def depth(self) -> int:
        return self.order + 1

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        s = self.contraction
        basis = [lambda k: s * 2 * (s * k), lambda k: s**2 * (4 * (s * k) ** 2 - 2)]
        return extrapolate(step, history, "step", basis[: self.order])
