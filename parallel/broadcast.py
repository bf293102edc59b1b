"""What one rank has made and all ranks of a replica need, and what each of them has to say."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

Named = dict[str, Tensor]


def broadcast_from_first(tensors: Sequence[Named] | None, ranks: Ranks, meter: CollectiveMeter) -> Sequence[Named]:
    """Give every rank of the replica what its first rank holds; collective over the replica.

    Args:
        tensors: dictionaries of tensors on the ranks' device, on the first rank; None elsewhere.
    """
    if ranks.replica_group is None:
        assert tensors is not None
        return tensors
    shapes = [[(name, t.shape, t.dtype) for name, t in named.items()] for named in tensors] if tensors else None
    received = []
    for i, names in enumerate(object_from_first(shapes, ranks) or ()):
        received.append({name: torch.empty(shape, dtype=dtype, device=ranks.device) for name, shape, dtype in names})
        for name, tensor in received[i].items():
            if tensors is not None:
                tensor.copy_(tensors[i][name])
            dist.broadcast(tensor, src=ranks.first_in_replica, group=ranks.replica_group)
            meter.count("broadcast", tensor, ranks.replica_size - 1 if tensors is not None else 0)
    return received


def object_from_first(value: Any, ranks: Ranks) -> Any:
    """What the replica's first rank gives, on every rank, pickled on the way; collective over the replica."""
    if ranks.replica_group is None:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=ranks.first_in_replica, group=ranks.replica_group, device=ranks.device)
    return said[0]


def objects_of_all(value: Any, ranks: Ranks) -> list[Any]:
    """What each rank of the replica gives, in rank order, on every rank; collective over the replica."""
    if ranks.replica_group is None:
        return [value]
    said: list[Any] = [None] * ranks.replica_size
    dist.all_gather_object(said, value, group=ranks.replica_group)
    return said
