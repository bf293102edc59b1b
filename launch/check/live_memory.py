"""The most that tensors take at once while code runs: the allocator's figure on CUDA, a count of storages elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from parallel.torch_private import TorchDispatchMode, tree_leaves


@dataclass
class Peak:
    """Bytes beyond what was held at the beginning; known after the end."""

    num_bytes: int = 0


@contextmanager
def measured_peak(device: torch.device) -> Iterator[Peak]:
    """The code inside runs on one device; what it makes is counted until it is freed."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.num_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with _Storages() as storages:
        yield peak
    peak.num_bytes = storages.peak


class _Storages(TorchDispatchMode):
    """Counts the bytes of all storages that operations inside make, from when they are made until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, int] = {}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf):
                self._count(leaf.untyped_storage(), given)
        return result

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        """
        Args:
            given: what the operation took; a result in the same place is a view.
        """
        key, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or key in given or key in self._known:
            return
        self._known[key] = size
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._known.pop(key)
