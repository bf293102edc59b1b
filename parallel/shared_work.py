"""Work that the first rank of a job gives out to all replicas, and that their first ranks take from it one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from parallel.ranks import Ranks
from parallel.torch_private import default_store

_POLL_SECONDS = 0.05


class SharedWork:
    """Messages of the job's first rank, and the items of the newest one. Only the first rank of each replica has one.

    It goes through the job's store, so that no replica waits for another in a collective. With one replica nothing is
    sent. Messages and results are JSON values.
    """

    def __init__(self, ranks: Ranks, name: str) -> None:
        """
        Args:
            name: of this work, unique in the job and the same on every rank.
        """
        self._ranks = ranks
        self._store = dist.PrefixStore(f"lockstep/{name}", default_store()) if ranks.degrees.data > 1 else None
        self._number = 0
        self._taken = 0
        self._seen = 0

    @property
    def replica(self) -> int:
        """The number of this rank's replica."""
        return self._ranks.replica

    def announce(self, message: Any) -> None:
        """Give out new work, once the results of the work before are all seen. On the first rank of the job."""
        self._begin()
        if self._store is not None:
            self._store.set(f"{self._number}/message", json.dumps(message))

    def await_message(self, meanwhile: Callable[[], None]) -> Any:
        """The next message. On the first ranks of the other replicas; without a limit, as work may take hours.

        Args:
            meanwhile: called again and again while there is none.
        """
        assert self._store is not None, "a single replica has the job's first rank"
        self._begin()
        key = f"{self._number}/message"
        while not self._store.check([key]):
            meanwhile()
            time.sleep(_POLL_SECONDS)
        return json.loads(self._store.get(key))

    def take(self) -> int:
        """The number of the next item, from 0, which nobody else takes."""
        if self._store is not None:
            return self._store.add(f"{self._number}/taken", 1) - 1
        self._taken += 1
        return self._taken - 1

    def finish(self, result: Any) -> None:
        """Send a result to the first rank. On the first ranks of the other replicas."""
        assert self._store is not None
        place = self._store.add(f"{self._number}/finished", 1) - 1
        self._store.set(f"{self._number}/result/{place}", json.dumps(result))

    def new_results(self) -> Iterator[Any]:
        """Results of other replicas that have come since the last call; does not wait. On the first rank."""
        if self._store is None:
            return
        for place in range(self._seen, self._store.add(f"{self._number}/finished", 0)):
            self._seen += 1
            yield json.loads(self._store.get(f"{self._number}/result/{place}"))

    def await_results(self, count: int, meanwhile: Callable[[], None]) -> Iterator[Any]:
        """That many results of other replicas, as they come. On the first rank; ``meanwhile`` as of
        :meth:`await_message`."""
        while count > 0:
            for result in self.new_results():
                count -= 1
                yield result
            if count > 0:
                meanwhile()
                time.sleep(_POLL_SECONDS)

    def _begin(self) -> None:
        self._number, self._taken, self._seen = self._number + 1, 0, 0
