"""What operations read and write, as kernels run one after the other on a GPU; on meta tensors it takes no time."""

import weakref
from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

L2_BYTES = 40 * 10**6
"""Of an A100; an H100 has 50 MB."""


class MemoryTraffic(TorchDispatchMode):
    """Counts kernels and bytes of all operations inside.

    launches: operations that are not views. kernel_bytes: what they read and write. moved_bytes: the part of it that
    goes to or comes from the GPU's memory, with a cache of :data:`L2_BYTES` before it, the least recently used dropped
    first. Freed memory is used again for the next tensor of its size, as torch's allocator does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.kernel_bytes = self.moved_bytes = 0
        self._addresses: dict[int, int] = {}  # of live storages
        self._freed: dict[int, list[int]] = defaultdict(list)
        self._cached: OrderedDict[tuple[int, int, int], bool] = OrderedDict()  # regions, and whether they are dirty

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        makes_nothing = func in (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default)
        if func.is_view or makes_nothing or not _tensors(result):
            return result
        self.launches += 1
        written: list[Tensor] = []
        for place, argument in enumerate(func._schema.arguments):
            for tensor in _tensors(args[place] if place < len(args) else kwargs.get(argument.name)):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    written.append(tensor)
                    if argument.name == "out" or func is torch.ops.aten.copy_.default:
                        continue  # not read
                self._touch(tensor, dirty=False)
        known = {id(tensor) for tensor in written}
        for tensor in (*written, *(tensor for tensor in _tensors(result) if id(tensor) not in known)):
            self._touch(tensor, dirty=True)
        return result

    def _touch(self, tensor: Tensor, dirty: bool) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._addresses:
            self._take(storage)
        self.kernel_bytes += tensor.nbytes
        region = self._addresses[storage._cdata], tensor.storage_offset() * tensor.itemsize, tensor.nbytes
        known = self._cached.pop(region, None)
        if known is None and not dirty:
            self.moved_bytes += tensor.nbytes
        self._cached[region] = dirty or bool(known)
        while sum(nbytes for _, _, nbytes in self._cached) > L2_BYTES:
            (_, _, nbytes), was_dirty = self._cached.popitem(last=False)
            self.moved_bytes += nbytes * was_dirty

    def _take(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._addresses[key] = self._freed[size].pop() if self._freed[size] else len(self._addresses) + 10**6 * size
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._freed[size].append(self._addresses.pop(key))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
