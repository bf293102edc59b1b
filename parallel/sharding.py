"""Cuts a sequence of tokens of any length into one shard for each rank, without padding."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.lengths import split_evenly, split_text
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


@dataclass(frozen=True)
class Shards:
    """Tokens that each sequence rank holds: lengths differ by one at most, and no shard of a video is empty.

    No rank holds padding. Collectives that need equal sizes pad for the transfer and remove it on arrival.
    """

    lengths: tuple[int, ...] = field(default=(0,))
    rank: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole sequence."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest shard."""
        return max(self.lengths)

    @property
    def start(self) -> int:
        """Index of this rank's first token in the sequence."""
        return sum(self.lengths[: self.rank])

    @property
    def length(self) -> int:
        """Tokens that this rank holds."""
        return self.lengths[self.rank]


def plan_shards(num_tokens: int, ranks: Ranks) -> Shards:
    """Cut ``num_tokens`` into one shard for each sequence rank, as even as whole tokens allow.

    Raises:
        ValueError: there are fewer tokens than ranks.
    """
    count = ranks.degrees.sequence
    if num_tokens < count:
        raise ValueError(
            f"The sequence has {num_tokens} tokens, fewer than its {count} ranks: use a larger video or fewer ranks."
        )
    return Shards(split_evenly(num_tokens, count), ranks.sequence_rank)


def plan_text_shards(num_tokens: int, video: Shards) -> Shards:
    """Cut a text into shards for the ranks that share ``video``, for joint attention. A rank may hold no text."""
    return Shards(split_text(num_tokens, len(video.lengths)), video.rank)


def join_shards(video: Shards, text: Shards) -> Shards:
    """The shards of the joint sequence: each rank holds its video tokens, then its text tokens."""
    return Shards(tuple(v + t for v, t in zip(video.lengths, text.lengths, strict=True)), video.rank)


def shard(tokens: Tensor, shards: Shards, dim: int = 1) -> Tensor:
    """This rank's tokens, contiguous: [batch, num_tokens, ...] → [batch, length, ...] at ``dim`` 1."""
    return tokens.narrow(dim, shards.start, shards.length).contiguous()


def pad_to_longest(tokens: Tensor, shards: Shards, dim: int) -> Tensor:
    """Append one token of zeros where this rank's shard is shorter than the longest."""
    missing = shards.longest - tokens.shape[dim]
    if missing == 0:
        return tokens
    filler = list(tokens.shape)
    filler[dim] = missing
    return torch.cat([tokens, tokens.new_zeros(filler)], dim=dim)


def strip_padding(tokens: Tensor, lengths: tuple[int, ...], dim: int) -> Tensor:
    """Undo :func:`pad_to_longest` for shards that are concatenated along ``dim``; ``lengths`` are theirs."""
    if len(set(lengths)) == 1 and tokens.shape[dim] == sum(lengths):
        return tokens
    padded = tokens.shape[dim] // len(lengths)
    return torch.cat([tokens.narrow(dim, i * padded, n) for i, n in enumerate(lengths)], dim=dim)


def gather(tokens: Tensor, shards: Shards, ranks: Ranks, meter: CollectiveMeter) -> Tensor:
    """All ranks' tokens in order, on every rank: [1, length, dim] → [1, num_tokens, dim]."""
    if ranks.sequence_group is None:
        return tokens
    local = pad_to_longest(tokens, shards, dim=1)[0].contiguous()
    everyone = local.new_empty(len(shards.lengths) * shards.longest, local.shape[-1])
    with meter.lap("all_gather"):
        dist.all_gather_single(everyone, local, group=ranks.sequence_group)
    meter.count("all_gather", local, len(shards.lengths) - 1)
    return strip_padding(everyone, shards.lengths, dim=0)[None]


@dataclass(frozen=True)
class ShardedSequence:
    """A video's tokens as they lie over the ranks; what gathering sends is counted by ``meter``."""

    ranks: Ranks
    shards: Shards
    meter: CollectiveMeter

    def shard(self, tokens: Tensor) -> Tensor:
        """As :func:`shard`, at dimension 1."""
        return shard(tokens, self.shards)

    def gather(self, tokens: Tensor) -> Tensor:
        """As :func:`gather`."""
        return gather(tokens, self.shards, self.ranks, self.meter)
