"""One process as a rank of many, over torch's fake backend, whose collectives send nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from parallel import ranks as joining
from parallel.degrees import Degrees
from parallel.ranks import Ranks, join, leave


class _Meeting:
    store = None

    def __init__(self, *_: Any) -> None:
        pass


@contextmanager
def one_rank_of(degrees: Degrees, rank: int = 0) -> Iterator[Ranks]:
    """This process is that rank inside, on the CPU, and all its groups are fake ones: real ones would wait for the
    other ranks."""
    import torch

    start, new_group, size = dist.init_process_group, dist.new_group, degrees.world_size
    environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}

    def start_fake(*_: object, **__: object) -> None:
        start("fake", store=FakeStore(), world_size=size, rank=rank)

    def new_fake(ranks: list[int] | None = None, *_: object, **__: object) -> object:
        return new_group(ranks, backend="fake")

    with (
        patch.dict("os.environ", environment),
        patch.object(joining, "Meeting", _Meeting),
        patch.object(dist, "init_process_group", start_fake),
        patch.object(dist, "new_group", new_fake),
    ):
        try:
            yield join(degrees, torch.device("cpu"), 60)
        finally:
            leave()
