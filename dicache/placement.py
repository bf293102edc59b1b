"""Which steps to compute, found beforehand: dynamic programming over what skipping was measured to cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEPTH = 2
"""Computed steps that an estimate is made of."""
_LONGEST_GAP = 12
_TINY = 1e-9
"""Added to the normal equations, relative to their trace: two velocities may be all but equal."""

State = tuple[int, ...]
"""The newest computed steps, newest first, at most DEPTH."""


@dataclass(frozen=True)
class Placement:
    """One budget's best list."""

    compute: tuple[int, ...]
    weights: dict[int, tuple[float, ...]]
    """Of each skipped step: what its velocity is made of, by the computed steps before it, newest first."""
    damage: float


def place_steps(grams: NDArray[np.float64], step_sizes: Sequence[float]) -> dict[int, Placement]:
    """The best placement for each number of computed steps.

    The cost of skipping step j after the computed steps a > b is the norm of the change of the guided velocity times
    the sampler's step, |σⱼ - σⱼ₊₁| ‖vⱼ - w₁ v_a - w₂ v_b‖, averaged over the prompts, with w by least squares over all
    prompts together (per-step weights as in L2P, arXiv 2604.26365). Costs add up; the least sum over all lists of that
    length is found exactly (as DPCache does with another cost), with at most 12 steps skipped in a row. How many steps
    are computed at the start is an outcome like all else: there is no warm-up.

    Args:
        grams: inner products of the guided velocities of an uncached run, [prompts, steps, steps].
        step_sizes: |σⱼ - σⱼ₊₁|, as many as steps.

    Returns:
        By number of computed steps. Few steps may be too few, for no gap is longer than the longest.
    """
    num_steps = len(step_sizes)
    # of each state: by number of computed steps the least sum so far, and the state before
    best: list[dict[State, dict[int, tuple[float, State]]]] = [{} for _ in range(num_steps + 1)]
    best[0][(0,)] = {1: (0.0, ())}
    ends: dict[int, tuple[float, State]] = {}
    for newest in range(num_steps):
        for state, by_count in best[newest].items():
            damage = 0.0
            for following in range(newest + 1, min(num_steps, newest + 1 + _LONGEST_GAP) + 1):
                if following > newest + 1:
                    skipped = following - 1
                    damage += step_sizes[skipped] * _miss(grams, skipped, state, fit(grams, skipped, state))
                after = (following, *state)[:DEPTH]
                for count, (sum_before, _) in by_count.items():
                    if following == num_steps:
                        _keep(ends, count, sum_before + damage, state)
                    else:
                        _keep(best[following].setdefault(after, {}), count + 1, sum_before + damage, state)
    return {count: _trace(best, count, *end, grams) for count, end in sorted(ends.items())}


def fit(grams: NDArray[np.float64], step: int, state: State) -> tuple[float, ...]:
    """Weights of the velocities of ``state`` that come nearest to that of ``step`` over all prompts."""
    known, total = list(state), grams.sum(axis=0)
    among = total[np.ix_(known, known)]
    among = among + _TINY * np.trace(among) * np.eye(len(known))
    return tuple(np.linalg.solve(among, total[known, step]).tolist())


def _miss(grams: NDArray[np.float64], step: int, state: State, weights: tuple[float, ...]) -> float:
    """Mean over the prompts of ‖v - Σ wᵢ vᵢ‖."""
    named, signs = [step, *state], np.array([1.0, *(-w for w in weights)])
    squares = np.einsum("i,pij,j->p", signs, grams[:, named][:, :, named], signs)
    return float(np.sqrt(np.maximum(squares, 0.0)).mean())


def _keep(table: dict[int, tuple[float, State]], count: int, damage: float, before: State) -> None:
    if count not in table or damage < table[count][0]:
        table[count] = (damage, before)


def _trace(
    best: Sequence[dict[State, dict[int, tuple[float, State]]]],
    count: int,
    damage: float,
    last: State,
    grams: NDArray[np.float64],
) -> Placement:
    compute: list[int] = []
    weights: dict[int, tuple[float, ...]] = {}
    state, end = last, grams.shape[1]
    for left in range(count, 0, -1):
        compute.append(state[0])
        weights |= {step: fit(grams, step, state) for step in range(state[0] + 1, end)}
        end, state = state[0], best[state[0]][state][left][1]
    return Placement(tuple(reversed(compute)), dict(sorted(weights.items())), damage)
