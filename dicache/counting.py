"""How many sums a request's steps measure: known from the method and from what was skipped, without a tensor."""

from collections.abc import Mapping, Sequence

from dicache.config import CacheConfig
from dicache.segment_cache import make_caches
from dicache.segments import build_scheme
from dicache.steps import Action, Decision, Lane, Step


def count_sums(
    config: CacheConfig,
    lanes: Sequence[Lane],
    num_steps: int,
    num_blocks: int,
    span: range,
    actions: Mapping[tuple[int, Lane, int], Action],
    published: Sequence[str] = (),
    shift: float | None = None,
) -> tuple[int, ...]:
    """Sums that all lanes together bring to the agreement of each step of ``span``: those that gate and estimator
    declare, where the steps before have left what they compare with.

    Args:
        config, lanes, num_steps, num_blocks, span, published, shift: as of :class:`dicache.controller.Controller`.
        actions: what was done, by step, lane and number of the segment.

    Raises:
        ValueError: a setting does not fit the request.
        KeyError: a step of ``span`` is not among the actions.
    """
    scheme = build_scheme(config, lanes, num_steps, num_blocks, span, published, shift)
    caches = make_caches(scheme, lanes, span)
    counts = []
    for index in span:
        step = Step(index, sigma=0.0, sigma_next=0.0)  # which step may be skipped at all depends on its number alone
        counts.append(sum(len(cache.sums(step)) for of_lane in caches.values() for cache in of_lane.values()))
        for lane, of_lane in caches.items():
            for number, cache in enumerate(of_lane.values()):
                cache.accept(step, Decision(actions[index, lane, number]))
    return tuple(counts)
