"""A device that is the CPU again: copies are made and counted, and none may be used before it was waited for."""

from typing import Any

import torch
from torch import Tensor


class CountingMover:
    """A ``engine.components.host_copies.Mover`` whose device is other memory of the CPU."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.bytes_copied = 0
        self.copies: list[tuple[int, int]] = []  # where from, and how many bytes
        self.pinned: list[int] = []
        self.events: list[tuple[str, Any]] = []
        self._marks = 0

    def pin(self, host: Tensor, owner: object) -> None:
        self.pinned.append(host.data_ptr())

    def copy(self, target: Tensor, source: Tensor, after: Any = None) -> Any:
        assert target.data_ptr() != source.data_ptr()
        target.copy_(source)
        self.bytes_copied += source.nbytes
        self.copies.append((source.data_ptr(), source.nbytes))
        copied = self.mark()
        self.events.append(("copy", (after, copied)))
        return copied

    def await_copy(self, copied: Any) -> None:
        self.events.append(("await", copied))

    def mark(self) -> Any:
        self._marks += 1
        return self._marks
