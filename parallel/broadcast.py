"""Tensors that one rank has made and all ranks of a replica need."""

from collections.abc import Sequence

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
    announced = [shapes]
    dist.broadcast_object_list(announced, src=ranks.first_in_replica, group=ranks.replica_group, device=ranks.device)
    received = []
    for i, names in enumerate(announced[0] or ()):
        received.append({name: torch.empty(shape, dtype=dtype, device=ranks.device) for name, shape, dtype in names})
        for name, tensor in received[i].items():
            if tensors is not None:
                tensor.copy_(tensors[i][name])
            dist.broadcast(tensor, src=ranks.first_in_replica, group=ranks.replica_group)
            meter.count("broadcast", tensor, ranks.replica_size - 1 if tensors is not None else 0)
    return received
