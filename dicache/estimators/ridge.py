"""Ridge regression (Hoerl and Kennard 1970) on the probe's differences. Lockstep's own estimator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import InnerSum, Operand, Sum

_P = tuple(Operand("probe_residual", age) for age in range(4))


class RidgeSettings(EstimatorSettings):
    """``cache.estimator`` of the ridge regression."""

    name: Literal["ridge"] = "ridge"
    shrinkage: float = Field(0.3, gt=0, allow_inf_nan=False, description="Pull toward reuse: larger extrapolates less.")
    differences: int = Field(
        2, ge=1, le=2, description="Differences of computed steps to fit: 2 keeps one residual more."
    )
    shared_keys: ClassVar[frozenset[str]] = frozenset({"probe_depth"})

    def build(self, request: CacheRequest) -> Estimator:
        return Ridge(self.shrinkage, self.differences)


@dataclass(frozen=True)
class Ridge:
    """r̂ = r₋₁ + Σᵢ aᵢ (r₋ᵢ - r₋₍ᵢ₊₁₎), i = 1 or 1 and 2, the aᵢ being fitted on the probe and shrunk toward reuse.

    The vector a solves (G + λ diag G) a = v, with the inner products Gᵢⱼ = ⟨dᵢ, dⱼ⟩ and vᵢ = ⟨p - p₋₁, dᵢ⟩ of the
    differences dᵢ = p₋ᵢ - p₋₍ᵢ₊₁₎ of probe residuals p. Without the shrinkage λ the fit would follow differences that
    are small by chance. With fewer computed steps there are fewer differences; after the first it is plain reuse.

    Args:
        shrinkage: λ, above 0, so that the solution is unique unless the probe did not change at all.
        differences: 1 or 2.
    """

    shrinkage: float
    differences: int = 2
    squares: ClassVar = (InnerSum((_P[1], _P[2]), (_P[1], _P[2])), InnerSum((_P[2], _P[3]), (_P[2], _P[3])))
    targets: ClassVar = (InnerSum((_P[0], _P[1]), (_P[1], _P[2])), InnerSum((_P[0], _P[1]), (_P[2], _P[3])))
    mixed: ClassVar = InnerSum((_P[1], _P[2]), (_P[2], _P[3]))

    @property
    def depth(self) -> int:
        return self.differences + 1

    @property
    def sums(self) -> tuple[Sum, ...]:
        mixed = (self.mixed,) if self.differences > 1 else ()
        return (*self.squares[: self.differences], *self.targets[: self.differences], *mixed)

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        match min(self.differences, len(history.computed) - 1):
            case 0:
                return Estimate((1.0,))
            case 1:
                a = self._one(sums, 0)
                return Estimate((1.0 + a, -a))
        a, b = self._two(sums)
        return Estimate((1.0 + a, b - a, -b))

    def _one(self, sums: Mapping[Sum, float], number: int) -> float:
        square = (1.0 + self.shrinkage) * sums[self.squares[number]]
        return sums[self.targets[number]] / square if square else 0.0

    def _two(self, sums: Mapping[Sum, float]) -> tuple[float, float]:
        """Cramer's rule: a library's solver might round differently on another kind of machine."""
        g11, g22 = ((1.0 + self.shrinkage) * sums[square] for square in self.squares)
        g12 = sums[self.mixed]
        v1, v2 = (sums[target] for target in self.targets)
        determinant = g11 * g22 - g12 * g12
        if determinant <= 0.0:  # a difference of zero: it gets the weight 0
            return self._one(sums, 0), self._one(sums, 1)
        return (v1 * g22 - v2 * g12) / determinant, (v2 * g11 - v1 * g12) / determinant
