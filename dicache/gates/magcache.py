"""The gate of MagCache (Ma et al., arXiv 2506.09045): a table of the ratios of residual sizes from step to step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dicache.calibration.numbers import calibrated_ratios
from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote
from dicache.published.choice import choose, is_published
from dicache.published.conditions import MEASURED_AT
from dicache.published.magnitudes import TABLES, Table, interpolate_nearest
from dicache.request import CacheRequest
from dicache.settings import ListOf
from dicache.steps import History, Lane, Step
from dicache.sums import Sum


class MagCacheSettings(GateSettings):
    """``cache.gate`` of MagCache."""

    name: Literal["magcache"] = "magcache"
    published: str | None = Field(None, description="Model whose published table is used, where several fit.")
    ratios: ListOf[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(
        None,
        min_length=1,
        description="A table of your own, an entry a step; for other numbers of steps the nearest entries are taken.",
    )

    def recommended(self) -> Mapping[str, Any]:
        return {"threshold": 0.12, "max_consecutive_skips": 2}

    def numbers(self) -> Mapping[str, object] | None:
        return TABLES if self.ratios is None else None

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        if self.ratios is not None:
            ratios = interpolate_nearest(self.ratios, request.num_steps)
            return MagCacheGate(request.threshold, {"cond": ratios, "uncond": ratios})
        if (file := self._calibration(request)) is not None:
            return MagCacheGate(request.threshold, calibrated_ratios(file, request.num_steps))
        name, table = self._table(request)
        measured = MEASURED_AT[name].shift
        shifts = None if request.shift is None or request.shift == measured else (request.shift, measured)
        return MagCacheGate(request.threshold, table.ratios(request.num_steps, shifts), table.inclusive)

    def warmup_steps(self, request: CacheRequest) -> int:
        if self.ratios is not None or self._calibration(request) is not None:
            return request.warmup_steps
        table, length = self._table(request)[1], len(request.span)
        if request.span.start > 0:
            return min(request.warmup_steps + table.extra_warmup, length)
        is_first_of_two = length < request.num_steps
        return length if is_first_of_two and table.computes_first_expert else request.warmup_steps

    def _calibration(self, request: CacheRequest) -> Path | None:
        """The calibration that the table is taken from, if it is."""
        return None if is_published(TABLES, self.published, request.published) else request.calibration

    def _table(self, request: CacheRequest) -> tuple[str, Table]:
        return choose(self.name, "tables", TABLES, self.published, request.published, own="cache.gate.ratios")


@dataclass(frozen=True)
class MagCacheGate:
    """MagCache (``magcache_generate.py`` of Zehong-Ma/MagCache). It measures nothing.

    γᵢ is the ratio of the sizes of the residuals of steps i and i - 1. The relative error of the residual of the last
    computed step l at step t is |1 - γₗ₊₁ … γₜ|. These errors accumulate over skipped steps. A step is skipped while
    the sum is under the threshold (or at it, if ``inclusive``). ``cache.max_consecutive_skips`` is the authors' K.
    """

    threshold: float
    ratios: Mapping[str, tuple[float, ...]]
    """γ of every step of the request, for each guidance branch."""
    inclusive: bool = False
    sums: ClassVar[tuple[Sum, ...]] = ()

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        ratios = self.ratios[history.lane.branch]
        error = abs(1.0 - math.prod(ratios[history.computed[-1].index + 1 : step.index + 1]))
        accumulated = history.accumulated + error
        skip = accumulated <= self.threshold if self.inclusive else accumulated < self.threshold
        return Vote(skip, error, accumulated)
