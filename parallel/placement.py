"""Chooses the parallel degrees that are left open, and gives the reason for each.

The choice follows what each axis sends. cfg exchanges one velocity for each step. Ulysses exchanges queries, keys,
values and outputs of every block between all ranks of a group, so a group should stay inside a node, where all links
are fast. A ring passes keys and values to a neighbour while it computes, so it suits the slower links between nodes,
and takes any number of ranks. (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509, and ring attention, Liu et al.
2023, arXiv 2310.01889, combined as USP does, Fang and Zhao 2024, arXiv 2405.07719.)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.machines import Machines
from parallel.place import Place
from parallel.reasons import give_reasons


@dataclass(frozen=True)
class Placement:
    """A layout, and for each axis one sentence with the reason for its degree."""

    degrees: Degrees
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Work:
    """What replicas are chosen for, where the goal is throughput."""

    videos: int | None = None
    """Of the list; None: more than there are ranks."""
    fits: Callable[[Degrees], bool] = lambda degrees: True
    """Whether a rank of that layout has the memory."""


def find_placement(
    config: ParallelConfig,
    place: Place,
    *,
    num_heads: int,
    num_tokens: int,
    guided: bool,
    work: Work = Work(),
) -> Placement:
    """Choose degrees whose product is the number of ranks. A given degree is never changed.

    Open degrees are filled in this order: cfg is 2 where there are two branches and an even number of ranks; Ulysses is
    the largest degree that divides the heads and whose groups stay inside a node; ring takes the rest. A ring degree
    that is open beside given cfg and Ulysses degrees is 1, so that a product that does not match is refused.

    Where the goal is throughput and data is open, it is filled first: with the most replicas that divide the ranks, of
    which each has a video to make and room for the model. Replicas send one another nothing.

    Args:
        place: where no ranks are named, there are as many as the given degrees multiply to; where no nodes are, there
            is one; where no local ranks are, there are as many as on every other node.
        num_heads: attention heads of the model.
        num_tokens: tokens of the sequence that the ranks of a replica share.
        guided: whether each step computes two guidance branches.
        work: the list of videos, and what fits.

    Raises:
        ValueError: the product is not ``ranks``, the heads do not divide, an axis has no such degree, nodes
            hold different numbers of ranks, a given ring would leave Ulysses groups that cross nodes, or
            there are fewer tokens than ranks to share them.
    """
    ranks = place.ranks
    if ranks is None:
        ranks = config.data * (config.cfg or 1) * (config.ulysses or 1) * (config.ring or 1)
    if config.cfg not in (None, 1, 2):
        raise ValueError(f"parallel.cfg is {config.cfg}, but there are two guidance branches at most: use 1 or 2.")
    nodes = place.nodes or 1
    machines = Machines(nodes, ranks // nodes if place.local_ranks is None else place.local_ranks)
    given = config
    if config.seeks_replicas:
        config = config.model_copy(update={"data": _count_replicas(config, ranks, machines, num_heads, guided, work)})
    degrees = _fill(config, ranks, machines, num_heads, guided)
    _check(config, degrees, ranks, machines, num_heads, num_tokens)
    return Placement(degrees, give_reasons(given, degrees, machines, num_heads, guided, work.videos))


def _count_replicas(
    config: ParallelConfig, ranks: int, machines: Machines, num_heads: int, guided: bool, work: Work
) -> int:
    """The most replicas; 1 if the model fits into none, which is what the goal latency would give."""
    most = min(ranks, work.videos or ranks)
    for data in range(most, 1, -1):
        replica = ranks // data
        # a replica inside a node, or of whole nodes: other ones would send over the links between nodes for nothing
        if ranks % data or (replica % machines.devices and machines.devices % replica):
            continue
        degrees = _fill(config.model_copy(update={"data": data}), ranks, machines, num_heads, guided)
        if degrees.world_size == ranks and not num_heads % degrees.ulysses and work.fits(degrees):
            return data
    return 1


def _fill(config: ParallelConfig, ranks: int, machines: Machines, num_heads: int, guided: bool) -> Degrees:
    replica = max(1, ranks // config.data)
    given = (config.ulysses or 1) * (config.ring or 1)
    cfg = config.cfg or (2 if guided and replica % (2 * given) == 0 else 1)
    sequence = max(1, replica // cfg)
    if config.ulysses is not None:
        rest = max(1, sequence // config.ulysses) if config.cfg is None else 1
        return Degrees(config.data, cfg, config.ulysses, config.ring or rest)
    if config.ring is not None:
        return Degrees(config.data, cfg, max(1, sequence // config.ring), config.ring)
    # groups are runs of neighbouring ranks from rank 0 on, so none crosses a node if they divide it
    ulysses = math.gcd(sequence, num_heads, machines.devices)
    return Degrees(config.data, cfg, ulysses, sequence // ulysses)


def _check(
    config: ParallelConfig, degrees: Degrees, ranks: int, machines: Machines, num_heads: int, num_tokens: int
) -> None:
    if degrees.world_size != ranks:
        raise ValueError(
            f"The parallel degrees {degrees} multiply to {degrees.world_size}, but there are {ranks} ranks: "
            f"change the degrees or start {degrees.world_size} ranks."
        )
    if config.ulysses is None and degrees.sequence > 1 and machines.nodes * machines.devices != ranks:
        # this rank may be on the smaller node or the larger one, and would place its groups otherwise than the rest
        raise ValueError(
            f"There are {ranks} ranks on {machines.nodes} nodes, but {machines.devices} on this one: start equally "
            "many on each node, or give parallel.ulysses and parallel.ring."
        )
    if num_heads % degrees.ulysses:
        divisors = [d for d in range(1, num_heads + 1) if num_heads % d == 0]
        raise ValueError(
            f"parallel.ulysses is {degrees.ulysses}, which does not divide the model's {num_heads} attention heads: "
            f"use one of {divisors}, or parallel.ring for the rest."
        )
    if config.ulysses is None and machines.are_crossed_by(degrees.ulysses):
        inside = math.gcd(degrees.sequence, num_heads, machines.devices)
        raise ValueError(
            f"parallel.ring is {degrees.ring}, which leaves Ulysses groups of {degrees.ulysses} ranks on nodes of "
            f"{machines.devices}: use parallel.ring={degrees.sequence // inside}, or parallel.ulysses="
            f"{degrees.ulysses} as well to let the groups cross nodes."
        )
    if num_tokens < degrees.sequence:
        raise ValueError(
            f"A video of this size has {num_tokens} tokens, fewer than the {degrees.sequence} ranks that would share "
            "them: use fewer ranks or a larger video."
        )
