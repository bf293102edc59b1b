"""Where the ranks of a job meet before their process groups are made, also after torchrun has restarted them.

torch's elastic agent keeps one store for all restarts. Keys of the ranks that were killed stay in it, and a new rank
that takes the address of a dead one for its peer's cannot connect. So under torchrun the ranks of each start agree on a
prefix that no earlier start has used.
"""

import json
import os
import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist

_LOOK_SECONDS = 0.02


class Meeting:
    """The store of the ranks of this start. Every rank makes one, and calls :meth:`first_decides` alike.

    It has to be kept until the process groups are made: where no launcher holds the store, rank 0 does.
    """

    def __init__(self, rank: int, ranks: int, timeout_seconds: float) -> None:
        """Connect to the store that the environment names (MASTER_ADDR, MASTER_PORT); waits for all ranks.

        Args:
            rank: of this process in the job.
            ranks: the world size, above 1.
            timeout_seconds: limit on the wait, and on each later one.

        Raises:
            torch.distributed.DistError: some rank does not come in that time.
        """
        timeout = timedelta(seconds=timeout_seconds)
        store, _, _ = next(dist.rendezvous("env://", rank, ranks, timeout=timeout))
        store.set_timeout(timeout)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = dist.PrefixStore(agree_on_prefix(store, rank, ranks, timeout_seconds), store)
        self.store: dist.Store = store
        self._rank = rank

    def first_decides(self, name: str, own: Any) -> Any:
        """The value of rank 0, on every rank.

        Args:
            name: of the decision, the same on all ranks, and used once.
            own: a JSON value; only rank 0's counts.
        """
        if self._rank == 0:
            self.store.set(f"decided/{name}", json.dumps(own))
        return json.loads(self.store.get(f"decided/{name}"))


def agree_on_prefix(store: dist.Store, rank: int, ranks: int, timeout_seconds: float) -> str:
    """A prefix that is the same on all ranks, and new, whatever earlier ranks have left in the store.

    Each rank writes a token of its own and waits for an answer to that token, which nobody can have given before.
    Rank 0 answers all tokens that it sees, stale ones too, until every rank has got its answer.

    Raises:
        torch.distributed.DistError: some rank does not come in that time.
    """
    if rank > 0:
        token = uuid.uuid4().hex
        store.set(f"token/{rank}", token)
        prefix = store.get(f"answer/{token}").decode()
        store.set(f"{prefix}/has/{rank}", "1")
        return prefix
    prefix, missing = uuid.uuid4().hex, set(range(1, ranks))
    deadline = time.monotonic() + timeout_seconds
    while missing:
        for other in sorted(missing):
            if store.check([f"{prefix}/has/{other}"]):
                missing.remove(other)
            elif store.check([f"token/{other}"]):
                store.set(f"answer/{store.get(f'token/{other}').decode()}", prefix)
        if missing:
            if time.monotonic() > deadline:
                names = ", ".join(map(str, sorted(missing)))
                raise dist.DistStoreError(f"timed out after {timeout_seconds:g} s without rank {names}")
            time.sleep(_LOOK_SECONDS)
    return prefix
