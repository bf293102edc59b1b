"""Divided differences over computed steps, shared by the estimators that extrapolate them (Taylor, Hermite).

The published forms work on features inside modules. Here they are applied once a step, to what the anchor counts from
(:class:`dicache.trajectory.Trajectory`): the residual of all blocks, or the model's output.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from dicache.estimators.estimator import Estimate
from dicache.steps import History, Step

Clock = Literal["step", "sigma"]


def extrapolate(step: Step, history: History, clock: Clock, basis: Sequence[Callable[[float], float]]) -> Estimate:
    """The coefficients of r₋₁ + Σₙ basisₙ(k) Δⁿ / n!.

    k is the time since the last computed step, Δⁿ the n-th divided difference of the newest computed steps: Δ⁰ = r₋₁
    and Δⁿ = (Δⁿ⁻¹ - Δⁿ⁻¹ of the computed step before) / g₁, g₁ being the time between the two.

    Args:
        clock: what time is counted in: steps, or the sampler's noise level.
        basis: one function for each order, from the first. With fewer than ``len(basis) + 1`` computed steps the order
            is lower.
    """
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
    """Time that increases from step to step. The noise level decreases, hence the sign."""
    return float(step.index) if clock == "step" else -step.sigma
