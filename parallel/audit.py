"""Checks that what must be equal on all ranks is equal, bit for bit."""

import hashlib
from collections import Counter
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.agreement import DivergedError
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class Audit:
    """One more collective for each check, of a 64-bit hash for each value; for finding a fault, not for production."""

    def __init__(self, ranks: Ranks, meter: CollectiveMeter) -> None:
        self._ranks = ranks
        self._meter = meter

    def check(self, when: str, things: Mapping[str, Tensor | str]) -> None:
        """Compare values of all ranks of the replica; collective.

        Args:
            when: for the error message, "after denoise step 3".
            things: tensors or texts by name, the same names in the same order on every rank.

        Raises:
            DivergedError: on every rank; it names the ranks whose value is not the most frequent one.
        """
        if self._ranks.replica_group is None:
            return
        mine = torch.tensor([_hash(thing) for thing in things.values()], device=self._ranks.device)
        everyone = mine.new_empty(self._ranks.replica_size * mine.numel())
        with self._meter.lap("audit"):
            dist.all_gather_single(everyone, mine, group=self._ranks.replica_group)
        self._meter.count("audit", mine, self._ranks.replica_size - 1)
        for name, hashes in zip(things, everyone.view(self._ranks.replica_size, -1).T.tolist(), strict=True):
            usual, _ = Counter(hashes).most_common(1)[0]
            odd = [str(self._ranks.first_in_replica + i) for i, value in enumerate(hashes) if value != usual]
            if odd:
                raise DivergedError(
                    f"The {name} of rank {', '.join(odd)} differ from the other ranks' {when}: "
                    "check that rank's hardware and libraries, and report this."
                )


def _hash(thing: Tensor | str) -> int:
    """The first 8 bytes of SHA-256, as the signed integer that travels in an int64 tensor."""
    if isinstance(thing, Tensor):
        content = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        content = thing.encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)
