"""One process as any rank of many, over torch's `fake` backend, whose collectives send nothing and leave what they
would receive as it was: for measuring what one rank computes and holds where there is one device.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from parallel.degrees import Degrees
from parallel.ranks import Ranks, join, leave


@contextmanager
def one_rank_of(degrees: Degrees, rank: int, device: torch.device) -> Iterator[Ranks]:
    """This process is that rank inside. Every group that is made meanwhile is a fake one, whatever it asks for: a real
    one would wait for the other ranks.

    Args:
        device: on which the rank computes.
    """
    start, new_group, size = dist.init_process_group, dist.new_group, degrees.world_size
    environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(device.index or 0)}

    def start_fake(*_: object, **__: object) -> None:
        start("fake", store=FakeStore(), world_size=size, rank=rank)

    def new_fake(ranks: list[int] | None = None, *_: object, **__: object) -> object:
        return new_group(ranks, backend="fake")

    with (
        patch.dict(os.environ, environment),
        patch.object(dist, "rendezvous", lambda *_, **__: iter([(FakeStore(), rank, size)])),
        patch.object(dist, "init_process_group", start_fake),
        patch.object(dist, "new_group", new_fake),
    ):
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
        try:
            yield join(degrees, device, 60)
        finally:
            leave()
