"""The estimator of a calibration: weights that were fitted to uncached runs of other prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dicache.calibration.file import read_for
from dicache.calibration.products import DEPTH, Products
from dicache.estimators.estimator import Estimate, Estimator, EstimatorSettings
from dicache.pairs import Anchor
from dicache.request import CacheRequest
from dicache.steps import History, Step
from dicache.sums import Sum


class FittedSettings(EstimatorSettings):
    """``cache.estimator`` of a calibration: it has no keys of its own."""

    name: Literal["fitted"] = "fitted"
    anchor: ClassVar[Anchor | None] = "nothing"
    weights_add_up: ClassVar[bool] = False

    def build(self, request: CacheRequest) -> Estimator:
        return Fitted(read_for(request).as_products())


@dataclass(frozen=True)
class Fitted:
    """The least-squares combination of the newest computed steps, over the calibration's prompts.

    The fit of the guided velocity is Σ wᵢ vᵢ over branches and computed steps. A lane's estimate is its own part of the
    sum before the guidance weighs it, so its coefficients are wᵢ divided by the branch's weight in the guided velocity.
    """

    products: Products
    depth: ClassVar[int] = DEPTH
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        known = [past.index for past in reversed(history.computed)][:DEPTH]
        weights, branches = self.products.fit(step.index, known), self.products.branches
        branch = branches.index(history.lane.branch)
        return Estimate(tuple(weight / self.products.mixing[branch] for weight in weights[branch :: len(branches)]))
