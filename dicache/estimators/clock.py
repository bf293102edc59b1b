"""How, by the clock: estimators whose weights follow from when steps were computed, without a look at the data.

Their published forms work on features inside modules; here they are in their step form, on what the anchor counts
from (:class:`dicache.trajectory.Trajectory`): the residual of all blocks, or the model's output.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from dicache.estimators.estimator import Estimate
from dicache.steps import History, Step
from dicache.sums import Sum

Clock = Literal["step", "sigma"]


@dataclass(frozen=True)
class Taylor:
    """Taylor series (TaylorSeer, Liu et al., arXiv 2503.06923), first or second order.

    r̂ = r₋₁ + k Δ¹ + k²/2 Δ², k being the time since the last computed step, with the divided differences
    Δ¹ = (r₋₁ - r₋₂) / g₁ and Δ² = (Δ¹ - Δ¹ of the computed step before) / g₁, where g₁ is the time between the last
    two computed steps. With fewer computed steps the order is lower: reuse, after the first.

    Args:
        order: 1 or 2.
        clock: what time is counted in, steps as published, or the sampler's noise level.
    """

    order: int = 1
    clock: Clock = "step"
    sums: ClassVar[tuple[Sum, ...]] = ()

    @property
    def depth(self) -> int:
        return self.order + 1

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        return _series(step, history, self.clock, [lambda k: k, lambda k: k**2][: self.order])


@dataclass(frozen=True)
class Hermite:
    """Scaled Hermite polynomials in the place of powers (HiCache, Feng et al., arXiv 2508.16984).

    r̂ = r₋₁ + Σₙ Hₙ(k) Δⁿ / n! with k and Δⁿ as in :class:`Taylor`, by step, and Hₙ(k) = sⁿ hₙ(s k), where hₙ are the
    physicists' Hermite polynomials h₁(x) = 2x, h₂(x) = 4x² - 2, and s is the contraction.
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
        return _series(step, history, "step", basis[: self.order])


@dataclass(frozen=True)
class AdamsBashforth:
    """Linear multistep reuse (AB-Cache, Yu et al., arXiv 2504.10540): the next backward difference is taken as zero.

    r̂ = Σⱼ (-1)ʲ⁺¹ C(n, j) r₋ⱼ over n = order + 1 computed steps, so (2, -1) or (3, -3, 1): the polynomial of that
    order through them, at the next place, however many steps were skipped since. The authors count n. With fewer
    computed steps n is smaller.
    """

    order: int = 1
    sums: ClassVar[tuple[Sum, ...]] = ()

    @property
    def depth(self) -> int:
        return self.order + 1

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        terms = min(self.depth, len(history.computed))
        return Estimate(tuple(float((-1) ** (j + 1) * math.comb(terms, j)) for j in range(1, terms + 1)))


@dataclass(frozen=True)
class FoCa:
    """Forecast, then calibrate (FoCa, Zheng et al., arXiv 2508.16211), as cache-dit's FoCaCalibrator has it.

    Two slopes are averaged, that of the last two computed steps and that of the last two values, estimated ones
    included: r̂ₖ = r₋₁ + h(k) ((r₋₁ - r₋₂) + (r̂ₖ₋₁ - r̂ₖ₋₂)), with r̂₀ = r₋₁, r̂₋₁ = r₋₂, h(k) = k/2 for k ≤ 3, and
    4.5/k beyond, which draws long estimates back to r₋₁. Slopes are of a step each, whatever the distance.

    In its step form here every gap begins from the two last computed steps. cache-dit keeps the last estimate over a
    computed step, so after one it takes its first slope from that estimate; both agree where two steps in a row were
    computed before the gap.
    """

    depth: ClassVar[int] = 2
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        if len(history.computed) < 2:
            return Estimate((1.0,))
        # every value is r₋₁ + w (r₋₁ - r₋₂), so a w says all
        newer, older = 0.0, -1.0
        for k in range(1, step.index - history.computed[-1].index + 1):
            h = k / 2 if k <= 3 else 4.5 / k
            newer, older = h * (1.0 + newer - older), newer
        return Estimate((1.0 + newer, -newer))


def _series(step: Step, history: History, clock: Clock, basis: Sequence[Callable[[float], float]]) -> Estimate:
    """r₋₁ + Σₙ basisₙ(k) Δⁿ / n!, as weights of r₋₁, r₋₂, …"""
    times = [_time(past, clock) for past in reversed(history.computed[-len(basis) - 1 :])]  # newest first
    k = _time(step, clock) - times[0]
    differences = [[float(i == j) for j in range(len(times))] for i in range(len(times))]  # Δ⁰ of each computed step
    weights = differences[0]
    for order, term in enumerate(basis[: len(times) - 1], start=1):
        differences = [
            [(a - b) / (times[i] - times[i + 1]) for a, b in zip(newer, older, strict=True)]
            for i, (newer, older) in enumerate(pairwise(differences))
        ]
        scale = term(k) / math.factorial(order)
        weights = [w + scale * d for w, d in zip(weights, differences[0], strict=True)]
    return Estimate(tuple(weights))


def _time(step: Step, clock: Clock) -> float:
    """Rising from step to step; the noise level falls."""
    return float(step.index) if clock == "step" else -step.sigma
