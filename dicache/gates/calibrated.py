"""The gate of a calibration: steps that were placed beforehand, and a brake for prompts on which they do worse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, pairwise
from typing import ClassVar, Literal

from pydantic import Field

from dicache.calibration.file import read_for
from dicache.calibration.products import DEPTH, Products
from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote
from dicache.request import CacheRequest
from dicache.steps import History, Lane, Step
from dicache.sums import Operand, ProductSum, Sum

STRANGE = 2.0
"""The largest factor, up or down, between the last changes of a run's velocities and those of the calibration, at which
the calibration is still taken to hold for the run. On the small model, in three samplings, the factor was below it in
98% of cases. With the steps of a calibration shuffled it was above it in nine of ten."""


def _product(i: int, j: int) -> ProductSum:
    """⟨v₋ᵢ, v₋ⱼ⟩ of a lane's computed velocities, v₋₁ being that of the newest computed step."""
    return ProductSum(Operand("velocity", i), Operand("velocity", j))


class CalibratedSettings(GateSettings):
    """``cache.gate`` of the calibrated gate."""

    name: Literal["calibrated"] = "calibrated"
    steps_skipped: float = Field(
        0.65, gt=0, lt=1, description="Share of the steps to skip: the nearest that the calibration has."
    )
    brake: float | None = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="Compute before the plan does once the damage of a gap reaches this multiple of what was planned "
        "for it; null follows the plan, and measures nothing.",
    )
    release: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Skip a step that was to be computed where the damage is below this share of what was planned.",
    )
    shared_keys: ClassVar[frozenset[str]] = frozenset({"quality"})
    method_keys: ClassVar[frozenset[str]] = frozenset({"steps_skipped"})
    how_much_keys: ClassVar[frozenset[str]] = method_keys

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        calibration = read_for(request)
        compute = calibration.nearest(self.steps_skipped).compute
        return CalibratedGate(compute, calibration.as_products(), calibration.step_sizes, self.brake, self.release)

    def warmup_steps(self, request: CacheRequest) -> int:
        return 0  # how many steps are computed first is a result of the placement


@dataclass(frozen=True)
class CalibratedGate:
    """Computes the placed steps. The brake computes others as well if this prompt is harder to estimate than those of
    the calibration, and the release skips placed steps if it is easier.

    The newest computed velocity shows how good an estimate of it would have been. The *surprise* is the error of the
    calibration's estimate of it from this prompt's earlier computed velocities, ‖v₋₁ - Σ wᵢ v₋₍ᵢ₊₁₎‖, divided by the
    error that was expected of it. The expected error is that of the calibration's prompts, or ‖v₋₁ - v₋₂‖ of this
    prompt if that is less: weights that do worse than plain reuse do not fit the run.

    The *damage* of a skip is the error that the calibration expects of it, in units of the final latents. The damage
    times the surprise accumulates over skipped steps, and so does the damage that the plan has accepted there. A step
    that should be skipped is computed if the first exceeds ``brake`` times the second. A placed step is skipped if the
    first stays within ``release`` times the planned damage of the skipped steps before it.

    A calibration of other steps or another model may expect small errors everywhere. So the brake also computes every
    step before which the last three changes from one computed velocity to the next differ from the calibration's by a
    factor of more than ``strange``, as the mean of the absolute logarithms. Nothing is skipped before there was a
    change.

    Args:
        compute: the placed steps in ascending order; the first is 0.
        sizes: of each step, the error of the final latents for a unit of error in the guided velocity.
        brake: None never brakes; nothing is measured then unless there is a release.
        release: 0 never releases.
        strange: infinity switches that test off.
    """

    compute: tuple[int, ...]
    products: Products
    sizes: Sequence[float]
    brake: float | None = None
    release: float = 0.0
    strange: float = STRANGE

    @property
    def sums(self) -> tuple[Sum, ...]:
        if self.brake is None and not self.release:
            return ()
        return tuple(_product(i, j) for i, j in combinations_with_replacement(range(1, DEPTH + 2), 2))

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return self.release > 0 or step.index not in self._placed

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        if not self.sums:
            return Vote(skip=True)
        known = [past.index for past in reversed(history.computed)][:DEPTH]
        surprise = self._surprise(history, sums)
        accumulated = history.accumulated + surprise * self._damage(step.index, known)
        if step.index in self._placed:
            plan = self._plan(range(self._before(step.index) + 1, step.index))
            return Vote(accumulated <= self.release * plan, surprise, accumulated)
        if self.brake is not None and self._strangeness(history, sums) > math.log(self.strange):
            return Vote(False, surprise, accumulated)
        plan = self._plan(range(known[0] + 1, step.index + 1))
        return Vote(self.brake is None or accumulated <= self.brake * plan, surprise, accumulated)

    @property
    def planned_damage(self) -> float:
        """The sum of the expected damage over all steps that the plan skips."""
        return self._plan(range(len(self.sizes)))

    @cached_property
    def _placed(self) -> frozenset[int]:
        return frozenset(self.compute)

    def _before(self, step: int) -> int:
        return max(index for index in self.compute if index < step)

    @cached_property
    def _planned(self) -> dict[int, float]:
        """The expected damage of each skipped step, if exactly the placed steps are computed."""
        return {
            step: self._damage(step, [index for index in reversed(self.compute) if index < step][:DEPTH])
            for step in range(len(self.sizes))
            if step not in self._placed
        }

    def _plan(self, steps: range) -> float:
        return sum(self._planned.get(step, 0.0) for step in steps)

    def _damage(self, step: int, known: Sequence[int]) -> float:
        return self.sizes[step] * self.products.miss(step, known, self.products.fit(step, known))

    def _surprise(self, history: History, sums: Mapping[Sum, float]) -> float:
        newest, *known = [past.index for past in reversed(history.computed)][: DEPTH + 1]
        if not known:
            return 1.0  # there is nothing to estimate the first step from
        own = self._alone[history.lane.branch]
        weights = own.fit(newest, known)
        signed = [1.0, *(-weight for weight in weights)]
        size = math.sqrt(sums[_product(1, 1)])
        expected = own.miss(newest, known, weights) / math.sqrt(own.of(newest, newest))
        reused = [1.0, -1.0]
        allowed = min(expected * size, _norm(reused, sums))
        miss = _norm(signed, sums)
        return miss / allowed if allowed else (math.inf if miss else 1.0)

    def _strangeness(self, history: History, sums: Mapping[Sum, float]) -> float:
        own = self._alone[history.lane.branch]
        computed = [past.index for past in reversed(history.computed)][: DEPTH + 1]
        factors = []
        for age, (newer, older) in enumerate(pairwise(computed), start=1):
            change = _norm([0.0] * (age - 1) + [1.0, -1.0], sums) / math.sqrt(sums[_product(age, age)])
            expected = own.miss(newer, [older], [1.0]) / math.sqrt(own.of(newer, newer))
            factors.append(abs(math.log(change / expected)) if change and expected else math.inf)
        return sum(factors) / len(factors) if factors else math.inf

    @cached_property
    def _alone(self) -> dict[str, Products]:
        return {branch: self.products.alone(branch) for branch in self.products.branches}


def _norm(signed: Sequence[float], sums: Mapping[Sum, float]) -> float:
    """‖Σ sᵢ v₋ᵢ‖."""
    square = 0.0
    for i, j in combinations_with_replacement(range(len(signed)), 2):
        square += (1 if i == j else 2) * signed[i] * signed[j] * sums[_product(i + 1, j + 1)]
    return math.sqrt(max(square, 0.0))
