"""Collectives over a replica for tensors of unknown shapes and for Python objects."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

Named = dict[str, Tensor]


def broadcast_from_first(tensors: Sequence[Named] | None, ranks: Ranks, meter: CollectiveMeter) -> Sequence[Named]:
    """Send the tensors of the replica's first rank to all its ranks; collective over the replica.

    Args:
        tensors: dictionaries of tensors on the rank's device, on the first rank; None on the others.

    Returns:
        The same names, shapes, dtypes and values on every rank, on its device.
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
            with meter.lap("broadcast"):
                dist.broadcast(tensor, src=ranks.first_in_replica, group=ranks.replica_group)
            meter.count("broadcast", tensor, ranks.replica_size - 1 if tensors is not None else 0)
    return received


def object_from_first(value: Any, ranks: Ranks) -> Any:
    """The value of the replica's first rank, on every rank. It is pickled. Collective over the replica."""
    if ranks.replica_group is None:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=ranks.first_in_replica, group=ranks.replica_group, device=ranks.device)
    return values[0]


def objects_of_all(value: Any, ranks: Ranks) -> list[Any]:
    """The values of all ranks of the replica, in rank order, on every rank. Pickled; collective over the replica."""
    if ranks.replica_group is None:
        return [value]
    gathered: list[Any] = [None] * ranks.replica_size
    dist.all_gather_object(gathered, value, group=ranks.replica_group)
    return gathered


def objects_of_all_replicas(value: Any, ranks: Ranks) -> list[Any]:
    """The values of all ranks of the job, in rank order, on every rank. Pickled; collective over the job, so that
    replicas wait for one another."""
    if ranks.degrees.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * ranks.degrees.world_size
    dist.all_gather_object(gathered, value)
    return gathered
