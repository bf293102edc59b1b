"""The ranks of one machine, while they load."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from parallel.ranks import Ranks


@contextmanager
def node_group(ranks: Ranks) -> Iterator[dist.ProcessGroup | None]:
    """A group of all ranks of this machine, for as long as the context lasts; None where this rank is alone. Collective
    over the machine. Ranks are numbered machine by machine, as every launcher does."""
    here, local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if ranks.degrees.world_size == 1 or here == 1:
        yield None
        return
    first = ranks.rank - local
    group = dist.new_group(list(range(first, first + here)), use_local_synchronization=True)
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


@contextmanager
def first_ranks_group(ranks: Ranks, group: dist.ProcessGroup | None) -> Iterator[dist.ProcessGroup | None]:
    """A group of the first ranks of the replicas that begin on this machine, for as long as the context lasts; None on
    other ranks, and where there is but one. Collective over them.

    Args:
        group: of all ranks of this machine.
    """
    here = dist.get_process_group_ranks(group) if group is not None else [ranks.rank]
    firsts = [rank for rank in here if rank % ranks.replica_size == 0]
    if ranks.rank not in firsts or len(firsts) == 1:
        yield None
    elif firsts == here:
        yield group
    else:
        own = dist.new_group(firsts, use_local_synchronization=True)
        try:
            yield own
        finally:
            dist.destroy_process_group(own)


def values_of(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """The values of all ranks of a group; pickled, collective."""
    if group is None:
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered
