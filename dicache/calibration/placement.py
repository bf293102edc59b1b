"""Finds the steps to compute for each number of steps, by dynamic programming over the measured cost of skips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dicache.calibration.products import DEPTH, TINY

LONGEST_GAP = 13
"""The largest distance from one computed step to the next: at most 12 steps are skipped in a row."""
_NONE = 0
"""Stands for a gap that does not exist because there was no computed step before."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StepPlacement:
    """The best list of computed steps of one length."""

    compute: tuple[int, ...]
    """Indices of the computed steps, in ascending order."""
    damage: float
    """The expected error of all skipped steps."""


TRUST = 0.75
"""Exponent of :func:`growth`; see there."""


def growth(sigma: float, trust: float = TRUST) -> float:
    """The factor by which an error that is made at noise level ``sigma`` has grown in the final latents.

    Errors that are made early grow, since all later steps depend on them; later errors fade. Measured on the small
    model with two steps skipped at a time, on four prompts: the final error is 4 to 5 times the error made for sigma
    above 0.97, 2.3 times at 0.93, 1 at 0.85 and 0.6 from 0.6 down. It was a function of sigma alone in two samplings,
    with a factor of two between prompts. 0.5 + 0.15 / (1.03 - sigma) follows these numbers. Large errors grow less than
    small ones, and lists that were placed with the full factor (``trust`` 1) do worse if few steps are computed, hence
    the exponent ``trust``.
    """
    return (0.5 + 0.15 / (1.03 - sigma)) ** trust


def place_steps(grams: Array, mixing: Sequence[float], step_sizes: Sequence[float]) -> dict[int, StepPlacement]:
    """The best placement for each number of computed steps.

    The cost of skipping step j after the computed steps a > b > c is sⱼ ‖vⱼ - v̂ⱼ‖, where v is the guided velocity and
    v̂ⱼ its fit to the branches' velocities at a, b and c (:meth:`dicache.calibration.products.Products.fit`); the norm
    is the root of the mean square over the prompts. The least sum of costs over all lists of that length is found
    exactly (as DPCache does with another cost), with at most 12 steps skipped in a row. The first two steps are always
    computed, since the brake skips nothing before it has seen a change. There is no other warm-up: how many more steps
    are computed at the start is a result.

    Args:
        grams: inner products of the branches' velocities of an uncached run, mean over the prompts,
            [steps, branches, steps, branches].
        mixing: the weight of each branch in the guided velocity, [branches].
        step_sizes: s, the final error for a unit of error at each step, [steps].

    Returns:
        By number of computed steps. Numbers with which a gap would be longer than ``LONGEST_GAP`` are missing.
    """
    num_steps, counts = len(step_sizes), len(step_sizes) + 1
    # For each newest computed step: the least sum so far, by the two gaps before it and the number of computed steps;
    # and the third gap, from which the list is traced back.
    shape = (LONGEST_GAP + 1, LONGEST_GAP + 1, counts)
    best = np.full((num_steps + 1, *shape), np.inf)
    third = np.zeros((num_steps + 1, *shape), dtype=np.int64)
    best[0, _NONE, _NONE, 1] = 0.0
    misses = {step: _misses(grams, mixing, step) for step in range(1, num_steps)}
    for newest in range(num_steps):
        damage = np.zeros(shape[:2])
        for gap in range(1, min(LONGEST_GAP, num_steps - newest) + 1 if newest else 2):
            following = newest + gap
            if gap > 1:
                damage = damage + step_sizes[following - 1] * misses[following - 1][gap - 1]
            total = best[newest] + damage[:, :, None]  # [gap before, gap before that, counts]
            if following < num_steps:
                total = np.concatenate([np.full((*shape[:2], 1), np.inf), total[..., :-1]], axis=-1)
            best[following, gap], third[following, gap] = total.min(axis=1), total.argmin(axis=1)
    ends = best[num_steps].reshape(-1, counts)
    return {
        count: StepPlacement(_trace(third, num_steps, count, int(end)), float(ends[end, count]))
        for count, end in enumerate(ends.argmin(axis=0))
        if np.isfinite(ends[end, count])
    }


def _misses(grams: Array, mixing: Sequence[float], step: int) -> dict[int, Array]:
    """‖v - v̂‖ at a step, by the distance to the newest computed step: a table over the two gaps before that step.

    Entries of gaps that cannot occur are infinite.
    """
    num_steps, branches = grams.shape[:2]
    flat = grams.reshape(num_steps * branches, -1)
    mix = np.asarray(mixing)
    own = step * branches + np.arange(branches)
    size = mix @ flat[np.ix_(own, own)] @ mix
    towards = mix @ flat[own]  # inner products of the guided velocity with all others
    found = {}
    for gap in range(1, min(LONGEST_GAP, step) + 1):
        table = np.full((LONGEST_GAP + 1, LONGEST_GAP + 1), np.inf)
        states = list(_states(step - gap))
        for depth in range(1, DEPTH + 1):
            these = [state for state in states if len(state) == depth]
            if not these:
                continue
            names = (np.array(these)[:, :, None] * branches + np.arange(branches)).reshape(len(these), -1)
            among = flat[names[:, :, None], names[:, None, :]]
            known = towards[names]
            shrunk = TINY * np.trace(among, axis1=1, axis2=2)[:, None, None] * np.eye(names.shape[1])
            weights = np.linalg.solve(among + shrunk, known[..., None])[..., 0]
            squares = size - 2 * (weights * known).sum(1) + np.einsum("si,sij,sj->s", weights, among, weights)
            for state, square in zip(these, squares, strict=True):
                gaps = [*(a - b for a, b in pairwise(state)), _NONE, _NONE]
                table[gaps[0], gaps[1]] = np.sqrt(max(square, 0.0))
        found[gap] = table
    return found


def _states(newest: int) -> Iterator[tuple[int, ...]]:
    """All possible newest computed steps before a skip, newest first, at most DEPTH; every list begins with step 0."""

    def before(state: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(state) == DEPTH or state[-1] == 0:
            yield state
            return
        for older in range(max(0, state[-1] - LONGEST_GAP), state[-1]):
            yield from before((*state, older))

    return before((newest,))


def _trace(third: NDArray[np.int64], num_steps: int, count: int, end: int) -> tuple[int, ...]:
    """The list of computed steps that belongs to one entry of the table, traced from the last gap to the first."""
    gap, before = divmod(end, LONGEST_GAP + 1)
    step, left, compute = num_steps, count, []
    while gap != _NONE:
        oldest = int(third[step, gap, before, left])
        left -= step < num_steps
        step -= gap
        compute.append(step)
        gap, before = before, oldest
    return tuple(reversed(compute))
