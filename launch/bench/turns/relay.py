"""What the first rank is told, on all ranks, which sleep until then: a collective operation would have a GPU wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import DistStoreError

from engine.config import RuntimeConfig
from engine.progress import Progress
from parallel.ranks import Ranks
from parallel.torch_private import job_store

Receive = Callable[[float], Any]
"""Waits for up to so many seconds for a JSON value; None where none came."""


class Relay:
    """Waits of all ranks for the first one, through the job's store; collective over the job."""

    def __init__(self, ranks: Ranks, limits: RuntimeConfig, progress: Progress) -> None:
        self._is_first = ranks.rank == 0
        self._store = job_store("lockstep/turns") if ranks.degrees.world_size > 1 else None
        self._progress = progress
        # whoever watches the ranks takes one that shows nothing for so long for hung
        self._look_seconds = min(limits.load_timeout_seconds, limits.step_timeout_seconds, 120.0) / 4
        self._number = 0

    def from_first(self, receive: Receive) -> Any:
        """What the first rank received, on every rank.

        Args:
            receive: called on the first rank alone, again and again until something has come.
        """
        self._number += 1
        key = str(self._number)
        if self._is_first:
            while (message := receive(self._look_seconds)) is None:
                self._progress.alive()
            if self._store is not None:
                self._store.set(key, json.dumps(message))
            return message
        assert self._store is not None, "there are several ranks"
        while not self._has_come(key):
            self._progress.alive()
        return json.loads(self._store.get(key))

    def _has_come(self, key: str) -> bool:
        assert self._store is not None
        try:
            self._store.wait([key], timedelta(seconds=self._look_seconds))
        except DistStoreError:  # it has not come in time; a store that is gone is another error
            return False
        return True


def of_the_first(seconds: float) -> None:
    """What every other rank gives in the place of what receives."""
