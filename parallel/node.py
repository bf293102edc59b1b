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
    over the job. Ranks are numbered machine by machine, as every launcher does."""
    with _own_group(_machines(ranks), ranks) as group:
        yield group


@contextmanager
def first_ranks_group(ranks: Ranks) -> Iterator[dist.ProcessGroup | None]:
    """A group of the first ranks of the replicas that begin on this machine, for as long as the context lasts; None on
    other ranks, and where there is but one. Collective over the job."""
    firsts = [[rank for rank in here if rank % ranks.replica_size == 0] for here in _machines(ranks)]
    with _own_group(firsts, ranks) as group:
        yield group


def _machines(ranks: Ranks) -> list[list[int]]:
    """The ranks of each machine; collective over the job."""
    if ranks.degrees.world_size == 1:
        return [[0]]
    here, local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    firsts: list[Any] = [None] * ranks.degrees.world_size
    dist.all_gather_object(firsts, (ranks.rank - local, here))
    return [list(range(first, first + count)) for first, count in sorted(set(firsts))]


@contextmanager
def _own_group(groups: list[list[int]], ranks: Ranks) -> Iterator[dist.ProcessGroup | None]:
    """The group of those that this rank is in. All ranks make all groups: torch names one that its ranks make alone by
    their numbers, and a second one of that name would find the addresses of the first in the store."""
    made = [(members, dist.new_group(members)) for members in groups if len(members) > 1]
    own = next((group for members, group in made if ranks.rank in members), None)
    try:
        yield own
    finally:
        if own is not None:
            dist.destroy_process_group(own)


def values_of(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """The values of all ranks of a group; pickled, collective."""
    if group is None:
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered
