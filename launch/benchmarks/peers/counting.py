"""Counts the work that a transformer really does: what ran, not what a method promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """What ran in one request, as shares of what runs without a cache."""

    blocks: float
    """Of the blocks' feed-forward parts."""
    attention: float
    """Of the blocks' self-attention. Less than ``blocks`` where a method skips attention inside of blocks that run."""


class WorkCount:
    """Counts inside the parts of the blocks of one Wan transformer. A hook on a block, or on a part that a cache may
    replace, would count calls whose forward pass the cache has replaced by one that computes nothing."""

    def __init__(self, transformer: Any) -> None:
        """
        Args:
            transformer: a diffusers ``WanTransformer3DModel``. Its hooks stay for its lifetime.
        """
        self._num_blocks = len(transformer.blocks)
        self._feed_forward = self._attention = 0
        for block in transformer.blocks:
            block.ffn.net[0].register_forward_hook(self._count_feed_forward)
            block.attn1.to_out[0].register_forward_hook(self._count_attention)

    def take(self, num_calls: int) -> Work:
        """What has run since the last time.

        Args:
            num_calls: calls of the transformer without a cache, steps × guidance branches.
        """
        whole = num_calls * self._num_blocks
        work = Work(self._feed_forward / whole, self._attention / whole)
        self._feed_forward = self._attention = 0
        return work

    def _count_feed_forward(self, *_: Any) -> None:
        self._feed_forward += 1

    def _count_attention(self, *_: Any) -> None:
        self._attention += 1
