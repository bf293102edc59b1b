"""A list of work for data-parallel replicas: each takes the next item when it is free, and waits for no other."""

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from parallel.ranks import Ranks
from parallel.torch_private import default_store

_POLL_SECONDS = 0.2


class WorkList:
    """Items 0 to ``count`` - 1; each replica takes the next one when it is free.

    The replicas share a counter in the job's store. A collective over all ranks would make every replica wait for the
    slowest.
    """

    def __init__(self, count: int, ranks: Ranks, name: str) -> None:
        """
        Args:
            name: of this list, unique in the job and the same on every rank.
        """
        self._count = count
        self._ranks = ranks
        self._store = dist.PrefixStore(f"lockstep/{name}", default_store()) if ranks.degrees.data > 1 else None
        self._own_results: dict[int, Any] = {}

    def __iter__(self) -> Iterator[int]:
        """The items of this replica, the same on all of its ranks; collective over the replica."""
        if self._store is None:
            yield from range(self._count)
            return
        while (item := self._take()) < self._count:
            yield item
        if self._ranks.replica_rank == 0:
            self._store.add("replicas without work", 1)

    def finish(self, item: int, result: Any) -> None:
        """Store an item's result, a JSON value, for the first rank of the job; called by a replica's first rank."""
        if self._store is None:
            self._own_results[item] = result
        else:
            self._store.set(f"result/{item}", json.dumps(result))

    def await_all(self) -> None:
        """Wait, without a collective, until every replica has run out of work; called by every rank before it leaves.

        If all ranks of a node left early, its launcher would end, and with it perhaps the store that other replicas
        still use. The wait has no limit, since work may take hours; a replica that dies ends the job.
        """
        if self._store is None:
            return
        self._wait_for("replicas without work", self._ranks.degrees.data)
        if self._ranks.rank == 0:  # whose process may own the store
            self._wait_for("ranks that saw it", self._ranks.degrees.world_size - 1)
        else:
            self._store.add("ranks that saw it", 1)

    def results(self) -> list[Any]:
        """All items' results in order, on the first rank of the job, after :meth:`await_all`."""
        if self._store is None:
            return [self._own_results[item] for item in range(self._count)]
        return [json.loads(self._store.get(f"result/{item}")) for item in range(self._count)]

    def _take(self) -> int:
        assert self._store is not None
        item = torch.zeros((), dtype=torch.int64, device=self._ranks.device)
        if self._ranks.replica_rank == 0:
            item.fill_(self._store.add("taken", 1) - 1)
        if self._ranks.replica_group is not None:
            dist.broadcast(item, src=self._ranks.first_in_replica, group=self._ranks.replica_group)
        return int(item)

    def _wait_for(self, counter: str, number: int) -> None:
        assert self._store is not None
        while self._store.add(counter, 0) < number:
            time.sleep(_POLL_SECONDS)
