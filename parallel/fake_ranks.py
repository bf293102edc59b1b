"""One process as any rank of many, over torch's `fake` backend, whose collectives send nothing and leave what they
would receive as it was: for measuring what one rank computes and holds where there is one device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from parallel.degrees import Degrees
from parallel.ranks import Ranks, leave, make_groups, use_device
from parallel.torch_private import fake_store


@contextmanager
def one_rank_of(degrees: Degrees, rank: int, device: torch.device) -> Iterator[Ranks]:
    """This process is that rank inside; it must not have joined others.

    Args:
        device: on which the rank computes.
    """
    use_device(device)
    dist.init_process_group("fake", store=fake_store(), rank=rank, world_size=degrees.world_size)
    try:
        yield make_groups(degrees, rank, device, "fake")
    finally:
        leave()
