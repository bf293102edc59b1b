"""The estimator of HiCache (Feng et al., arXiv 2508.16984)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.estimators.series import extrapolate
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import Sum


class HermiteSettings(EstimatorSettings):
    """``cache.estimator`` of HiCache."""

    name: Literal["hermite"] = "hermite"
    order: int = Field(1, ge=1, le=2, description="Highest derivative: 2 keeps one residual more.")
    contraction: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="Scale of the polynomials: smaller extrapolates less."
    )
    method_keys: ClassVar[frozenset[str]] = frozenset({"order"})

    def build(self, request: CacheRequest) -> Estimator:
        return Hermite(self.order, self.contraction)


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
