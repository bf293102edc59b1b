"""The estimator of AB-Cache (Yu et al., arXiv 2504.10540)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import Sum


class AdamsBashforthSettings(EstimatorSettings):
    """``cache.estimator`` of AB-Cache."""

    name: Literal["adams_bashforth"] = "adams_bashforth"
    order: int = Field(1, ge=1, le=2, description="Highest derivative: 2 keeps one residual more.")
    method_keys: ClassVar[frozenset[str]] = frozenset({"order"})

    def build(self, request: CacheRequest) -> Estimator:
        return AdamsBashforth(self.order)


@dataclass(frozen=True)
class AdamsBashforth:
    """Linear multistep reuse: the next backward difference is taken as zero.

    r̂ = Σⱼ (-1)ʲ⁺¹ C(n, j) r₋ⱼ over n = order + 1 computed steps, so the coefficients are (2, -1) or (3, -3, 1). That
    is the polynomial of degree ``order`` through the computed steps, evaluated at the next place, however many steps
    were skipped since. The authors' order is n. With fewer computed steps n is smaller.

    Args:
        order: 1 or 2.
    """

    order: int = 1
    sums: ClassVar[tuple[Sum, ...]] = ()

    @property
    def depth(self) -> int:
        return self.order + 1

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        terms = min(self.depth, len(history.computed))
        return Estimate(tuple(float((-1) ** (j + 1) * math.comb(terms, j)) for j in range(1, terms + 1)))
