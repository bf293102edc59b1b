"""Counts the bytes that this rank hands to collectives."""

from collections import Counter

import torch


class CollectiveMeter:
    """Bytes sent by this rank, by kind of collective; one per request."""

    def __init__(self) -> None:
        self.sent_bytes: Counter[str] = Counter()

    def count(self, kind: str, tensor: torch.Tensor, peers: int) -> None:
        """Add what goes to ``peers`` other ranks when each of them receives ``tensor``."""
        self.sent_bytes[kind] += tensor.numel() * tensor.element_size() * peers
