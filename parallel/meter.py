"""Counts the bytes that this rank sends in collectives."""

from collections import Counter

import torch


class CollectiveMeter:
    """Bytes sent by this rank, by kind of collective; one per request."""

    def __init__(self) -> None:
        self.sent_bytes: Counter[str] = Counter()

    def count(self, kind: str, tensor: torch.Tensor, peers: int) -> None:
        """Add the bytes of ``tensor`` once for each of the ``peers`` other ranks that receive it."""
        self.sent_bytes[kind] += tensor.numel() * tensor.element_size() * peers
