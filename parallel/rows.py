"""Frames cut into strips of rows, one strip for each rank of a model replica, and the exchange of rows between ranks.

All transfers are point to point, so strips may differ in height, and ranks without rows take no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.lengths import split_evenly
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


@dataclass(frozen=True)
class Strips:
    """Rows of the latents that each rank of the replica holds, from the top; heights differ by one at most.

    Where there are more ranks than rows, the first ranks hold one row each and the others none.
    """

    heights: tuple[int, ...]
    rank: int = 0

    @property
    def height(self) -> int:
        """Rows that this rank holds."""
        return self.heights[self.rank]

    @property
    def num_holders(self) -> int:
        """Number of ranks that hold rows; they are the first ranks."""
        return sum(height > 0 for height in self.heights)

    def cut(self, picture: Tensor, scale: int = 1) -> Tensor:
        """This rank's rows as a view: [..., rows, width] → [..., height × scale, width].

        Args:
            scale: rows of the tensor for each row of the latents.
        """
        return picture.narrow(-2, sum(self.heights[: self.rank]) * scale, self.height * scale)


def plan_strips(num_rows: int, ranks: Ranks) -> Strips:
    """Cut the rows of the latents into one strip for each rank of the replica, as even as whole rows allow."""
    return Strips(split_evenly(num_rows, ranks.replica_size), ranks.replica_rank)


class RowExchange:
    """Sends rows between the ranks of a replica; :meth:`begin` says which rows each holds.

    NCCL creates a communicator at the first operation on its group, in which every rank must take part. With fewer rows
    than ranks, another collective on the replica's group has to come first; encoding the prompt has one.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._group = ranks.replica_group
        self._strips = Strips((1,))
        self._meter = CollectiveMeter()

    def begin(self, strips: Strips, meter: CollectiveMeter) -> None:
        """Frames follow that are cut as ``strips`` says; ``meter`` counts the bytes sent."""
        self._strips, self._meter = strips, meter

    @property
    def is_alone(self) -> bool:
        """Whether one rank has all rows, so that layers run as they are, with the kernels that they run with then."""
        return self._strips.num_holders == 1

    def extend(self, strip: Tensor, above: bool = True, below: bool = True) -> Tensor:
        """Add the neighbours' nearest rows to a strip, or zeros at the upper and lower edge of the frame.

        Args:
            strip: [..., rows, width], this rank's rows at any resolution.
            above: add the row above.
            below: add the row below.

        Returns:
            [..., rows + above + below, width]
        """
        upper = self._strips.rank - 1 if self._strips.rank > 0 else None
        lower = self._strips.rank + 1 if self._strips.rank + 1 < self._strips.num_holders else None
        first, last = strip.narrow(-2, 0, 1), strip.narrow(-2, strip.shape[-2] - 1, 1)
        row_above, row_below = _zeros_like(first), _zeros_like(first)
        sends: list[tuple[Tensor, int]] = []
        receives: list[tuple[Tensor, int]] = []
        if upper is not None:
            sends += [(first.contiguous(), upper)] if below else []
            receives += [(row_above, upper)] if above else []
        if lower is not None:
            sends += [(last.contiguous(), lower)] if above else []
            receives += [(row_below, lower)] if below else []
        self._transfer("vae_halo", sends, receives)
        return torch.cat([*([row_above] if above else []), strip, *([row_below] if below else [])], dim=-2)

    def gather_for_all(self, kind: str, strip: Tensor, scale: int = 1) -> Tensor:
        """All rows in order, on every rank, also on those without rows: [..., rows, width].

        Args:
            kind: name under which the bytes are counted.
            strip: [..., height × scale, width], this rank's rows.
            scale: rows of the tensor for each row of the latents.
        """
        return self._gather(kind, strip, range(len(self._strips.heights)), scale)

    def gather_for_holders(self, kind: str, strip: Tensor) -> Tensor:
        """All rows in order, on every rank that holds rows; only these ranks call it. Arguments as above."""
        return self._gather(kind, strip, range(self._strips.num_holders), strip.shape[-2] // self._strips.height)

    def gather_for_first(self, kind: str, strip: Tensor) -> Tensor:
        """All rows in order on the replica's first rank, no rows on the others; only ranks that hold rows call it."""
        return self._gather(kind, strip, range(1), strip.shape[-2] // self._strips.height)

    def _gather(self, kind: str, strip: Tensor, receivers: Sequence[int], scale: int) -> Tensor:
        rank, heights = self._strips.rank, self._strips.heights
        strip = strip.contiguous()
        pieces = []
        if rank in receivers:
            shapes = [(*strip.shape[:-2], height * scale, strip.shape[-1]) for height in heights]
            pieces = [strip if peer == rank else strip.new_empty(shape) for peer, shape in enumerate(shapes)]
        self._transfer(
            kind,
            sends=[(strip, peer) for peer in receivers if peer != rank and heights[rank]],
            receives=[(piece, peer) for peer, piece in enumerate(pieces) if peer != rank and heights[peer]],
        )
        return torch.cat(pieces, dim=-2) if pieces else strip.narrow(-2, 0, 0)

    def _transfer(self, kind: str, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]) -> None:
        """Exchange contiguous tensors with other ranks of the replica in one batch."""
        operations = [dist.P2POp(dist.isend, tensor, group=self._group, group_peer=peer) for tensor, peer in sends]
        operations += [dist.P2POp(dist.irecv, tensor, group=self._group, group_peer=peer) for tensor, peer in receives]
        if not operations:
            return
        with self._meter.lap(kind):
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        for tensor, _ in sends:
            self._meter.count(kind, tensor, peers=1)


def _zeros_like(row: Tensor) -> Tensor:
    return torch.zeros_like(row, memory_format=torch.contiguous_format)
