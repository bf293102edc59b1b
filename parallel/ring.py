"""Ring attention (Liu et al. 2023, arXiv 2310.01889): each rank's queries meet the keys and values of all ranks, which
go from neighbour to neighbour.

A rank holds two chunks of keys and values at a time, whatever the ring's degree: the one it attends to, and the one
that arrives meanwhile. torch's own ring (``torch.distributed.tensor.experimental``), which xDiT's USP calls, gathers
the chunks of all ranks at once by default, and copies each before it sends it otherwise.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.meter import CollectiveMeter
from parallel.sharding import strip_padding

Kernel = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Called with query, key and value, [batch, heads, tokens, head_dim] each. Returns the output in the shape of the
query, a new tensor, and the log-sum-exp of each query's scores [batch, heads, queries], float32; None from a kernel
that keeps it back, which can serve where there is one chunk."""


def attend_in_ring(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel: Kernel,
    chunks: Sequence[tuple[int, ...]],
    group: dist.ProcessGroup | None,
    meter: CollectiveMeter,
) -> Tensor:
    """Attend from this rank's queries to all chunks of keys and values.

    Args:
        query, key, value: [batch, heads, tokens, head_dim] each, padded to the same length on all ranks.
        chunks: lengths of the shards inside each chunk, without padding, in the order in which the chunks arrive: this
            rank's own, then its predecessor's. Padding travels, but is not attended to.
        group: the ranks of the ring; it may be None where there is one chunk.
        meter: its clock counts as "ring" the wait for the next chunk, and the addition of the last chunk's output. What
            of a transfer is covered by attention costs no time.

    Returns:
        [batch, heads, tokens, head_dim] in the query's dtype.
    """
    if len(chunks) == 1:
        return kernel(query, *(strip_padding(t, chunks[0], dim=2) for t in (key, value)))[0]
    assert group is not None
    here = [key.contiguous(), value.contiguous()]
    coming = [torch.empty_like(tensor) for tensor in here]
    merged = _Merged()
    for number, lengths in enumerate(chunks):
        is_last = number + 1 == len(chunks)
        transfer = [] if is_last else _pass_on(here, coming, group)
        out, log_sum_exp = kernel(query, *(strip_padding(t, lengths, dim=2) for t in here))
        assert log_sum_exp is not None
        with meter.lap("ring"):
            merged.add(out, log_sum_exp)
            for work in transfer:
                work.wait()
        here, coming = coming, here
    return merged.out.to(query.dtype)


def _pass_on(here: Sequence[Tensor], coming: Sequence[Tensor], group: dist.ProcessGroup) -> list[dist.Work]:
    """Start to send tensors to the next rank of the ring, and to receive those of the previous one. Neither may be
    written or read, respectively, before the transfer has been waited for."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    after, before = (rank + 1) % size, (rank - 1) % size
    sends = [dist.P2POp(dist.isend, tensor, group=group, group_peer=after) for tensor in here]
    receives = [dist.P2POp(dist.irecv, tensor, group=group, group_peer=before) for tensor in coming]
    works: list[dist.Work] = dist.batch_isend_irecv(sends + receives)
    return works


class _Merged:
    """The attention to all chunks that have been added so far, from the attention to each: the softmax over their union
    weighs a chunk's output by its share of the sum of exponentials. float32, whatever the chunks' dtype."""

    out: Tensor
    _log_sum_exp: Tensor | None = None

    def add(self, out: Tensor, log_sum_exp: Tensor) -> None:
        """
        Args:
            out: [batch, heads, queries, head_dim]; in float32 it may be overwritten.
            log_sum_exp: [batch, heads, queries]
        """
        if self._log_sum_exp is None:
            self.out, self._log_sum_exp = out.float(), log_sum_exp.float()
            return
        share = torch.sigmoid(log_sum_exp - self._log_sum_exp)  # of the new chunk
        self.out.lerp_(out.float(), share.unsqueeze(-1).expand_as(out))
        self._log_sum_exp = torch.logaddexp(self._log_sum_exp, log_sum_exp)
