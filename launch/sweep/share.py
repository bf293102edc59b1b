"""Search for the threshold that skips a given share of the steps: published comparisons are made at equal shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dicache.config import CacheConfig
from dicache.controller import Controller, Lane, Step
from dicache.estimators.reuse import ReuseSettings
from engine.denoise.guidance import all_lanes

CLOSE_ENOUGH = 0.0101
"""A share this close to the target ends the search: half a step of 50, with a margin for rounding."""
STILL_THE_SHARE = 0.03
"""The nearest share that was found is accepted if it is this close to the target."""
_MOST_TRIALS = 10


def find_value(
    target: float, share_at: Callable[[float], float], start: float, known: dict[float, float] | None = None
) -> float | None:
    """The threshold at which about that share of the steps is skipped, by bisection of its logarithm.

    Args:
        target: share of skipped steps, between 0 and 1.
        share_at: measures the share at a threshold; it has to grow with the threshold, apart from noise.
        start: the first threshold to try, above 0.
        known: shares by threshold that were measured before; those measured now are added.

    Returns:
        None if no threshold comes close, since the method has other limits as well.
    """
    known = {} if known is None else known
    for _ in range(_MOST_TRIALS):
        nearest = min(known, key=lambda value: abs(known[value] - target), default=None)
        if nearest is not None and abs(known[nearest] - target) <= CLOSE_ENOUGH:
            return nearest
        below = max((value for value, share in known.items() if share < target), default=None)
        above = min((v for v, share in known.items() if share >= target and v > (below or 0.0)), default=None)
        if below is None and above is None:
            value = start
        elif above is None:
            assert below is not None
            value = 2 * below
        elif below is None:
            value = above / 2
        else:
            value = (below * above) ** 0.5
        value = float(f"{value:.4g}")
        if value in known or (below is not None and above is not None and above < 1.02 * below):
            break  # the share jumps between two thresholds that are nearly equal
        known[value] = share_at(value)
    nearest = min(known, key=lambda value: abs(known[value] - target))
    return nearest if abs(known[nearest] - target) <= STILL_THE_SHARE else None


def known_share(
    cache: CacheConfig, num_steps: int, num_branches: int, published: Sequence[str], shift: float | None = None
) -> float | None:
    """The share of steps that a method skips if that does not depend on the data; None if it does.

    A model with two transformers is treated as if it had one.

    Args:
        num_steps: denoise steps.
        num_branches: guidance branches.
        published: names under which the model was published.
        shift: of the sampling.
    """
    lanes = all_lanes(1, num_branches)
    # the estimator has no part in the decision, and this one needs no sums
    blind = cache.model_copy(update={"estimator": ReuseSettings(), "anchor": "input", "last_blocks": 0})
    controller = Controller(blind, lanes, num_steps, (cache.probe_depth or 1) + 1, published=published, shift=shift)
    skipped = 0
    for index in range(num_steps):
        step = Step(index, 1 - index / num_steps, 1 - (index + 1) / num_steps)
        if _needs_sums(controller, step, lanes):
            return None
        skipped += sum(plan.is_estimated for plan in controller.decide(step, {}).values())
    return skipped / (num_steps * len(lanes))


def _needs_sums(controller: Controller, step: Step, lanes: Sequence[Lane]) -> bool:
    return any(controller.num_sums(step, lane) for lane in lanes)
