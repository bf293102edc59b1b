"""Tiles of a video, shared out over the ranks of a model replica: each is computed on one rank and sent to the first.

Tiles are given out in rounds, in order: those of a round go one after the other, the largest first, to the rank with
the least to do until then. So the work of two ranks never differs by more than the largest tile. A rank computes the
next round's tiles before it waits for those of the last, so it waits only for a rank that is a whole round behind, and
no wait is longer than the work of a round. It holds its tiles of two rounds at most, and the first rank those of all.

Bytes sent: each tile that another rank than the first computes goes once to the first rank, its elements × their size.
For HunyuanVideo's 129 frames of 1280×720 over 8 ranks in float16 that is 1.6 GB in 270 tiles, 230 MB a rank.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.agreement import NotFiniteError, Verdict
from parallel.lengths import share_out
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

KIND = "vae_tiles"
"""The name under which the meter counts the bytes of tiles."""

Shape = tuple[int, ...]


def count_tiles(shapes: Sequence[Shape], num_ranks: int) -> list[int]:
    """How many tiles each rank computes."""
    owners = [owner for owners in share_out([prod(shape) for shape in shapes], num_ranks) for owner in owners]
    return [owners.count(rank) for rank in range(num_ranks)]


@dataclass
class _Round:
    """Tiles that are under way."""

    verdict: Verdict
    tiles: list[Tensor] = field(default_factory=list)  # all on the first rank, in order; its own on another
    transfers: list[dist.Work] = field(default_factory=list)

    def finish(self, meter: CollectiveMeter) -> None:
        """Wait until the tiles are sent and received, and all ranks are known to be done with the round."""
        if self.transfers:
            with meter.lap(KIND):
                for transfer in self.transfers:
                    transfer.wait()
        self.verdict.wait()


def shared_tiles(
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    compute: Callable[[int], Tensor],
    what: str,
    advice: str,
    ranks: Ranks,
    meter: CollectiveMeter,
) -> Iterator[Tensor]:
    """Compute tiles on all ranks of the replica; collective, and each rank has to exhaust it.

    Every rank computes tiles of its own alone, so where kernels give the same bits for the same input, the tiles do not
    depend on the number of ranks.

    Args:
        shapes: of the tiles.
        dtype: of their elements.
        compute: called with the number of a tile; gives it, contiguous, on the ranks' device.
        what, advice: for the error, as of :func:`parallel.agreement.require_finite`.
        meter: counts the bytes sent.

    Returns:
        All tiles in order on the first rank of the replica; nothing on the others, which are done when it ends.

    Raises:
        NotFiniteError: some tile holds NaN or infinity; on all ranks alike.
    """
    start = 0
    before: _Round | None = None
    for owners in share_out([prod(shape) for shape in shapes], ranks.replica_size):
        now = _begin(start, owners, shapes, dtype, compute, ranks, meter)
        start += len(owners)
        if before is not None:
            try:
                yield from _end(before, what, advice, ranks, meter)
            except NotFiniteError:  # on all ranks, all of which have begun this round: their group goes on
                now.finish(meter)
                raise
        before = now
        if ranks.replica_size == 1:
            yield from _end(now, what, advice, ranks, meter)
            before = None
    if before is not None:
        yield from _end(before, what, advice, ranks, meter)


def _begin(
    start: int,
    owners: Sequence[int],
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    compute: Callable[[int], Tensor],
    ranks: Ranks,
    meter: CollectiveMeter,
) -> _Round:
    """Compute this rank's tiles of a round, and begin to send them and to receive others."""
    rank = ranks.replica_rank
    tiles, operations = [], []
    finite = torch.ones((), dtype=torch.bool, device=ranks.device)
    for number, owner in enumerate(owners, start):
        if owner == rank:
            tile = compute(number)
            assert tile.shape == shapes[number] and tile.dtype == dtype, (tile.shape, tile.dtype, shapes[number], dtype)
            finite &= tile.isfinite().all()
            tiles.append(tile)
            if rank != 0:
                operations.append(dist.P2POp(dist.isend, tile, group=ranks.replica_group, group_peer=0))
                meter.count(KIND, tile, peers=1)
        elif rank == 0:
            tiles.append(torch.empty(shapes[number], dtype=dtype, device=ranks.device))
            operations.append(dist.P2POp(dist.irecv, tiles[-1], group=ranks.replica_group, group_peer=owner))
    transfers = dist.batch_isend_irecv(operations) if operations else []
    return _Round(Verdict(finite, ranks, meter), tiles, transfers)


def _end(round_: _Round, what: str, advice: str, ranks: Ranks, meter: CollectiveMeter) -> Iterator[Tensor]:
    """The tiles of a round, once all are here and known to be finite; none on other ranks than the first."""
    round_.finish(meter)
    round_.verdict.require_finite(what, advice)
    if ranks.replica_rank == 0:
        yield from round_.tiles
