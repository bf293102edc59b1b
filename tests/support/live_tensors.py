"""How much memory tensors take at once while code runs, on real ones or on fake ones, which have shapes and no data."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that operations inside make, from when they are made until they are freed."""

    def __init__(self, module: torch.nn.Module | None = None, without: torch.dtype | None = None) -> None:
        """
        Args:
            module: its weights are not counted.
            without: tensors of that dtype are not counted.
        """
        super().__init__()
        tensors = (*module.parameters(), *module.buffers()) if module is not None else ()
        self._known = {plain.untyped_storage()._cdata for tensor in tensors for plain in _plain_parts(tensor)}
        self._without = without
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype != self._without:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:  # a view
            return
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._now -= size
        self._known.discard(key)


def _plain_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensor, or those that a quantised one consists of."""
    if isinstance(tensor, FakeTensor) or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_parts(getattr(tensor, name))


@contextmanager
def fake_tensors(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have no data inside, and that dtype unless another is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)
