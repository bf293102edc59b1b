"""Attention over tokens that are spread over the ranks: xDiT's Ulysses exchange around a ring of Lockstep's.

Together they are USP (Fang and Zhao 2024, arXiv 2405.07719), which needs shards of equal length, and whose kernel would
attend to padding. Here every rank holds real tokens only. They are padded for the transfer, and the padding of keys and
values is removed right before the attention kernel runs, for each chunk that the ring passes on.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
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
from parallel.torch_private import opaque_operation


def install_sequence_attention(
    transformer: nn.Module,
    ranks: Ranks,
    kernel: KernelName = "sdpa",
    deterministic: bool = False,
    compiled: bool = False,
    shared: "SequenceAttention | None" = None,
) -> "SequenceAttention":
    """Replace the attention processor of every block by one that runs over all sequence ranks. No weight changes.

    Args:
        transformer: a diffusers transformer of the Wan or HunyuanVideo family.
        kernel: one that :func:`parallel.kernels.choose_kernel` has chosen.
        deterministic: results do not depend on the layout (:mod:`parallel.fixed_rows`). A ring then gathers the keys
            and values of all ranks.
        compiled: the blocks are compiled.
        shared: the attention of the model's other transformer, which takes the same requests; None makes one. Compiled
            blocks of both are the same graph only if their attention is.

    Returns:
        The attention, whose :meth:`SequenceAttention.begin` has to be called for each request.

    Raises:
        TypeError: the transformer is of another family.
    """
    attention = shared or SequenceAttention(ranks, kernel, deterministic, compiled)
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
    """The attention that the blocks call; :meth:`begin` tells it each request's shards.

    Compiled blocks call it as one operation that torch does not look into: it counts bytes, waits for other ranks, and
    its lengths are a request's. Traced, each of these would split the block, or compile it anew.
    """

    def __init__(self, ranks: Ranks, kernel: KernelName, deterministic: bool, compiled: bool) -> None:
        self._ranks = ranks
        self._kernel = kernel
        self._deterministic = deterministic
        self._shards = Shards()
        self._meter = CollectiveMeter()
        self._as_operation = _as_operation(self._attend_rows) if compiled else None

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
        return self._call(query, key, value, None)

    def attend_joint(self, query: Tensor, key: Tensor, value: Tensor, text_lengths: Tensor) -> Tensor:
        """The same for a joint sequence, as :class:`parallel.joint.Attend`: each rank holds its video tokens, then its
        text tokens, or one row that is no text and is left out."""
        return self._call(query, key, value, text_lengths)

    def _call(self, query: Tensor, key: Tensor, value: Tensor, text_lengths: Tensor | None) -> Tensor:
        if self._as_operation is None:
            return self._attend_rows(query, key, value, text_lengths)
        return self._as_operation(query, key, value, text_lengths)

    def _attend_rows(self, query: Tensor, key: Tensor, value: Tensor, text_lengths: Tensor | None) -> Tensor:
        if text_lengths is None:
            return self._attend(query, key, value, [self._shards])
        text = Shards(tuple(text_lengths.tolist()), self._shards.rank)
        rows, tokens = query.shape[2], self._shards.length + text.length
        query, key, value = (tensor.narrow(2, 0, tokens) for tensor in (query, key, value))
        out = self._attend(query, key, value, [self._shards, text])
        return F.pad(out, (0, 0, 0, rows - tokens)) if rows > tokens else out

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


def _as_operation(attend_rows: Callable[..., Tensor]) -> Callable[..., Tensor]:
    method = weakref.WeakMethod(attend_rows)  # torch keeps the operation for good, and what it holds

    def attend(query: Tensor, key: Tensor, value: Tensor, text_lengths: Tensor | None) -> Tensor:
        attend_rows = method()
        assert attend_rows is not None
        return attend_rows(query, key, value, text_lengths).contiguous()

    return opaque_operation("attend_over_ranks", attend)


def _chunk_lengths(shards: Shards, ranks: Ranks) -> list[tuple[int, ...]]:
    """Shard lengths inside each chunk of keys, in the order in which the chunks arrive at this rank: its own first,
    then its predecessor's. Without a ring there is one chunk."""
    ulysses, ring = ranks.degrees.ulysses, ranks.degrees.ring
    sources = [(ranks.ring_rank - step) % ring for step in range(ring)]
    return [shards.lengths[source * ulysses : (source + 1) * ulysses] for source in sources]
