"""Counts the bytes that this rank sends in collectives, and on request the seconds that they take."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Lap = Callable[[str], AbstractContextManager[Any]]


class CollectiveMeter:
    """Bytes sent by this rank, by kind of collective; one per request."""

    def __init__(self, lap: Lap | None = None) -> None:
        """
        Args:
            lap: a clock's. It is called with the kind of a collective, and the collective runs inside. None takes no
                time.
        """
        self.sent_bytes: Counter[str] = Counter()
        self.is_timed = lap is not None
        self._lap = lap or _untimed

    def count(self, kind: str, tensor: torch.Tensor, peers: int) -> None:
        """Add the bytes of ``tensor`` once for each of the ``peers`` other ranks that receive it."""
        self.sent_bytes[kind] += tensor.numel() * tensor.element_size() * peers

    def lap(self, kind: str) -> AbstractContextManager[Any]:
        """A collective of this kind runs inside, to its end on the stream that is current."""
        return self._lap(kind)


def _untimed(kind: str) -> AbstractContextManager[Any]:
    return nullcontext()
