"""Weights that are sharded over the ranks of a model replica: each holds a part of every tensor (torch's FSDP2).

A *unit* is a module whose parameters are gathered together right before it runs and freed right after: each block, and
each layer outside the blocks. The gathers are collectives, so all ranks of the replica have to run the same units in
the same order. A rank that has nothing to compute calls :meth:`ShardedWeights.take_part` instead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.torch_private import AllGather


class ShardedWeights:
    """The sharded weights of one module, made by :func:`shard_pieces` or :func:`shard_whole`."""

    def __init__(self, root: "_Root", blocks: Sequence[FSDPModule], gathering: "_MeteredAllGather") -> None:
        self.blocks = blocks
        self._root = root
        self._gathering = gathering

    @contextmanager
    def running(self, meter: CollectiveMeter) -> Iterator[None]:
        """The loaded module may run inside; ``meter`` counts the bytes of its gathers as "weights"."""
        self._gathering.meter = meter
        self._root()
        try:
            yield
        finally:
            # Frees what was gathered ahead for a block that then did not run, and torch's record of forward passes,
            # which would grow with every step: by itself torch empties it in a backward pass.
            self._root.reset_iter_state()  # type: ignore[operator]

    def take_part(self, start: int, stop: int) -> None:
        """Take part in the gathers of blocks ``start`` to ``stop - 1``, which run on other ranks and not here.

        These are the gathers that running the blocks here would make, in the same order.
        """
        for block in self.blocks[start:stop]:
            block.unshard()
            block.reshard()

    @contextmanager
    def gathered(self, number: int) -> Iterator[None]:
        """Single layers of block ``number`` may run inside; collective, so on all ranks of the replica."""
        self.blocks[number].unshard()
        yield
        self.blocks[number].reshard()


def shard_pieces(module: nn.Module, ranks: Ranks) -> ShardedWeights:
    """Shard a module whose blocks and layers are run one by one, never its own forward pass.

    Units are its blocks (:func:`list_blocks`) and every layer outside them that has a matrix. Other parameters stay
    whole on every rank (of Wan, one table of 2 x dim numbers). While blocks run, a rank holds three blocks beside its
    part: the block that runs, the buffer in which it was gathered, and the buffer of the next block. Where blocks run
    after others were skipped, it holds a fourth: the first of those that were skipped, gathered ahead.

    Args:
        module: on the meta device, in its final dtypes; no parameter requires a gradient.
        ranks: of a replica with more than one rank.
    """
    blocks = list_blocks(module)
    weights = _shard(module, [*blocks, *layers_outside(blocks, module)], blocks, ranks, OffloadPolicy())
    # By itself torch gathers ahead only inside a module whose own forward pass runs. A skipped step stops after the
    # probe, and the block that was gathered ahead is kept for the next step.
    for block, following in pairwise(weights.blocks):
        block.set_modules_to_forward_prefetch([following])
    return weights


def shard_whole(module: nn.Module, blocks: Sequence[nn.Module], ranks: Ranks) -> ShardedWeights:
    """Shard a module that is called as a whole. Parts are in the host's memory, and the unit that runs on the device.

    Units are ``blocks``, every layer outside them that has a matrix, and one unit of all other parameters.

    Args:
        module: on the meta device, in its final dtypes; no parameter requires a gradient. Layers with tied weights
            must be one and the same layer.
        ranks: of a replica with more than one rank.
    """
    policy = CPUOffloadPolicy() if ranks.device.type == "cuda" else OffloadPolicy()
    return _shard(module, [*blocks, *layers_outside(blocks, module), module], blocks, ranks, policy)


def _shard(
    module: nn.Module, units: Sequence[nn.Module], blocks: Sequence[nn.Module], ranks: Ranks, policy: OffloadPolicy
) -> ShardedWeights:
    assert ranks.replica_group is not None
    mesh = DeviceMesh.from_group(ranks.replica_group, ranks.device.type)
    gathering = _MeteredAllGather()
    sharded = {unit: fully_shard(unit, mesh=mesh, reshard_after_forward=True, offload_policy=policy) for unit in units}
    for unit in sharded.values():
        unit.set_custom_all_gather(gathering)
    whole = {parameter for parameter in module.parameters() if not isinstance(parameter, DTensor)}
    root = _Root(module)
    fully_shard(root, mesh=mesh, ignored_params=whole)
    return ShardedWeights(root, [sharded[block] for block in blocks], gathering)


def list_blocks(module: nn.Module) -> list[nn.Module]:
    """The members of a module's direct ``nn.ModuleList`` children, in order: the blocks of a transformer."""
    return [block for child in module.children() if isinstance(child, nn.ModuleList) for block in child]


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of parameters that this rank holds while nothing is gathered, with the padding of uneven shards."""
    return sum(tensor_bytes(parameter) for parameter in module.parameters())


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes that this rank holds of a tensor: of its part, and of all tensors that a quantised one is made of."""
    if isinstance(tensor, DTensor):
        return tensor.to_local().untyped_storage().nbytes()
    if hasattr(tensor, "__tensor_flatten__"):  # torch's protocol; by itself such a tensor counts as if it were plain
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


def layers_outside(blocks: Sequence[nn.Module], module: nn.Module) -> list[nn.Module]:
    """Modules outside the blocks that have no children and at least one parameter of two or more dims."""
    inside = {part for block in blocks for part in block.modules()}
    return [
        part
        for part in module.modules()
        if part not in inside
        and next(part.children(), None) is None
        and any(parameter.ndim > 1 for parameter in part.parameters(recurse=False))
    ]


class _Root(nn.Module):
    """The FSDP root, in which torch keeps the streams and state of all units. It has to run first; it does nothing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> None:
        pass


class _MeteredAllGather(AllGather):
    """torch's own all-gather, with its bytes counted."""

    def __init__(self) -> None:
        self.meter = CollectiveMeter()

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        self.meter.count("weights", input_tensor, group.size() - 1)
        with self.meter.lap("weights"):
            return dist.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)
