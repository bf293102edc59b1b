"""Where a line runs: which rank on which device, and how it meets the other ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.jobs.config import JobConfig

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store

    from parallel.degrees import Degrees
    from parallel.ranks import Ranks

# longer than a line may take: the agent ends a line whose ranks wait for one another in vain
JOIN_SECONDS = 600.0


@dataclass(frozen=True)
class Site:
    """What a line knows.

    given: the configuration of the small model, as it was read. kind: "cuda" or "cpu". folder: of this rank's machine,
    for files that nobody needs afterwards; it lasts for the whole check. store: of all ranks of this check.
    """

    given: JobConfig
    kind: str
    rank: int
    ranks: int
    local_ranks: int
    folder: Path
    store: Store | None = None

    @property
    def nodes(self) -> int:
        """Machines that the ranks are on."""
        return -(-self.ranks // self.local_ranks)

    @cached_property
    def device(self) -> torch.device:
        """This rank's."""
        from parallel.ranks import pick_device

        return pick_device(self.kind)

    @contextmanager
    def joined(self, degrees: Degrees) -> Iterator[Ranks]:
        """Inside, this process is one of the ranks of that layout; collective over all ranks."""
        from parallel.ranks import join, leave

        try:
            yield join(degrees, self.device, JOIN_SECONDS)
        finally:
            leave()

    def tell(self, key: str, value: Any) -> None:
        """Publish a JSON value of this rank under a key, which is used once."""
        if self.store is not None:
            self.store.set(f"{key}/{self.rank}", json.dumps(value))

    def everyones(self, key: str, own: Any) -> list[Any]:
        """The JSON values of all ranks, in rank order; collective, though not over process groups."""
        if self.store is None:
            return [own]
        self.tell(key, own)
        return [json.loads(self.store.get(f"{key}/{rank}")) for rank in range(self.ranks)]
