"""Attention over tokens that are spread over the ranks: xDiT's Ulysses exchange around a ring of Lockstep's.

Together they are USP (Fang and Zhao 2024, arXiv 2405.07719), which needs shards of equal length, and whose kernel would
attend to padding. Here every rank holds real tokens only. They are padded for the transfer, and the padding of keys and
values is removed right before the attention kernel runs, for each chunk that the ring passes on.
"""

import functools
from collections.abc import Sequence
from typing import Any

from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel, WanTransformer3DModel
from torch import Tensor, nn

from parallel import xdit
from parallel.fixed_rows import attend_in_order
from parallel.joint import JointAttentionProcessor
from parallel.kernel_calls import kernel_over_ranks
from parallel.kernels import KernelName
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.ring import attend_in_ring
from parallel.sharding import Shards, join_shards, pad_to_longest


def install_sequence_attention(
    transformer: nn.Module, ranks: Ranks, kernel: KernelName = "sdpa", deterministic: bool = False
) -> "SequenceAttention":
    """Replace the attention processor of every block by one that runs over all sequence ranks. No weight changes.

    Args:
        transformer: a diffusers transformer of the Wan or HunyuanVideo family.
        kernel: one that :func:`parallel.kernels.choose_kernel` has chosen.
        deterministic: results do not depend on the layout (:mod:`parallel.fixed_rows`). A ring then gathers the keys
            and values of all ranks.

    Returns:
        The attention, whose :meth:`SequenceAttention.begin` has to be called for each request.

    Raises:
        TypeError: the transformer is of another family.
    """
    attention = SequenceAttention(ranks, kernel, deterministic)
    if isinstance(transformer, WanTransformer3DModel):
        _give_to_wan(transformer, attention)
    elif isinstance(transformer, HunyuanVideoTransformer3DModel | HunyuanVideo15Transformer3DModel):
        _give_to_hunyuan_video(transformer, attention)
    else:
        raise TypeError(f"There is no attention over ranks for {type(transformer).__name__}.")
    return attention


def _give_to_wan(transformer: Any, attention: "SequenceAttention") -> None:
    """Self-attention of the video runs over ranks. Cross-attention is local, since every rank holds the whole text."""
    for block in transformer.blocks:
        processor = xdit.xFuserWanAttnProcessor(use_ulysses_parallel_attention=True)
        processor.attention_function = attention
        block.attn1.set_processor(processor)


def _give_to_hunyuan_video(transformer: Any, attention: "SequenceAttention") -> None:
    """Video and text attend jointly in every block, dual-stream or single-stream; 1.5 has no single-stream blocks."""
    for block in (*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())):
        block.attn.set_processor(JointAttentionProcessor(attention.attend_joint))


class SequenceAttention:
    """The attention that the blocks call; :meth:`begin` tells it each request's shards."""

    def __init__(self, ranks: Ranks, kernel: KernelName, deterministic: bool) -> None:
        self._ranks = ranks
        self._kernel = kernel
        self._deterministic = deterministic
        self._shards = Shards()
        self._meter = CollectiveMeter()

    def begin(self, shards: Shards, meter: CollectiveMeter) -> None:
        """Start a request: ``shards`` says which tokens each rank holds, ``meter`` counts the bytes sent."""
        self._shards, self._meter = shards, meter

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        """Attend from this rank's queries to all ranks' keys.

        Args:
            query, key, value: [1, heads, local tokens, head_dim] each, of the blocks' dtype.

        Returns:
            [1, heads, local tokens, head_dim]
        """
        return self._attend(query, key, value, [self._shards])

    def attend_joint(self, query: Tensor, key: Tensor, value: Tensor, text: Shards) -> Tensor:
        """The same for a joint sequence: each rank holds its video tokens, then its text tokens.

        Args:
            text: which text tokens each rank holds.
        """
        return self._attend(query, key, value, [self._shards, text])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, streams: Sequence[Shards]) -> Tensor:
        shards = functools.reduce(join_shards, streams)
        query, key, value = (pad_to_longest(tensor, shards, dim=2) for tensor in (query, key, value))
        self._count(query)
        if self._ranks.degrees.ulysses > 1:
            with self._meter.lap("all_to_all"):
                query = xdit.exchange_heads_for_tokens(query)  # one after the other, so that each copy is freed
                key = xdit.exchange_heads_for_tokens(key)
                value = xdit.exchange_heads_for_tokens(value)
        kernel = kernel_over_ranks(self._kernel, query.device, query.dtype)
        if self._deterministic:
            out = attend_in_order(query, key, value, kernel, streams, self._ranks, self._meter)
        else:
            chunks = _chunk_lengths(shards, self._ranks)
            out = attend_in_ring(query, key, value, kernel, chunks, self._ranks.ring_group, self._meter)
        if self._ranks.degrees.ulysses > 1:
            with self._meter.lap("all_to_all"):
                out = xdit.exchange_tokens_for_heads(out)
        return out.narrow(2, 0, shards.length)

    def _count(self, tensor: Tensor) -> None:
        """Count bytes: query, key, value and output in the all-to-all of Ulysses, key and value in the ring."""
        degrees = self._ranks.degrees
        share = tensor.narrow(1, 0, tensor.shape[1] // degrees.ulysses)
        self._meter.count("all_to_all", share, 4 * (degrees.ulysses - 1))
        self._meter.count("ring", tensor, 2 * (degrees.ring - 1))


def _chunk_lengths(shards: Shards, ranks: Ranks) -> list[tuple[int, ...]]:
    """Shard lengths inside each chunk of keys, in the order in which the chunks arrive at this rank: its own first,
    then its predecessor's. Without a ring there is one chunk."""
    ulysses, ring = ranks.degrees.ulysses, ranks.degrees.ring
    sources = [(ranks.ring_rank - step) % ring for step in range(ring)]
    return [shards.lengths[source * ulysses : (source + 1) * ulysses] for source in sources]
