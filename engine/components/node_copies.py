"""One copy of weights in the host's memory for all ranks of a machine.

One rank loads a part and puts its weights into memory that all ranks share; the others get the module with tensors that
lie there. So each file is read, cast, changed by adapters and quantised once.
"""

import io
import mmap
import pickle
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.components.weight_rows import WeightRow, is_plain, tensor_in
from engine.errors import RankFailure
from parallel.shared_memory import share_memory

Pieces = Callable[[Any], Sequence[Sequence[nn.Module]]]
"""Cuts a module into those that come to a device and leave it together."""


class NodeCopies:
    """The ranks of a machine that load the same parts in the same order."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._loads = dist.get_rank(group) == 0

    def load(self, load: Callable[[], Any], pieces: Pieces) -> tuple[Any, list[Tensor]]:
        """A part that one rank loads; collective over the ranks.

        Args:
            load: gives the module on the CPU; called on the first rank alone.

        Returns:
            The module, and the rows in which the weights of its pieces lie, as of
            :class:`engine.components.host_copies.Piece`: the same memory on all ranks, which none may write to.

        Raises:
            RankFailure: it cannot be loaded, or not be shared; on all ranks alike.
        """
        module, failure = self._loaded(load)
        rows = [WeightRow(piece) for piece in pieces(module)] if module is not None else []
        # a page of memory is pinned once, so pieces have none in common
        sizes: Any = [_whole_pages(row.nbytes) for row in rows]
        self._tell(failure)
        try:
            memory = share_memory(sum(sizes) if self._loads else None, self._group)
            told: list[Any] = [None, None, None]
            if self._loads:
                for row, place in zip(rows, memory.split(sizes), strict=True):
                    row.point_to(place, fill=True)
                told = [sizes, *_pickled(module, memory)]
            dist.broadcast_object_list(told, group_src=0, group=self._group)
            sizes, pickled, problem = told
            if problem:
                raise OSError(problem)
        except OSError as error:
            raise RankFailure(
                f"The ranks of this machine cannot share memory for weights ({error}): start fewer ranks on it."
            ) from None
        if not self._loads:
            module = _Unpickler(pickled, memory).load()
        return module, list(memory.split(sizes))

    def _loaded(self, load: Callable[[], Any]) -> tuple[Any, Exception | None]:
        if not self._loads:
            return None, None
        try:
            return load(), None
        except Exception as error:
            return None, error

    def _tell(self, failure: Exception | None) -> None:
        told = [str(failure) if failure is not None else None]
        dist.broadcast_object_list(told, group_src=0, group=self._group)
        if failure is not None:
            raise failure
        if told[0] is not None:
            raise RankFailure(told[0])


def whole(module: nn.Module) -> list[list[nn.Module]]:
    """A module as one piece."""
    return [list(module.modules())]


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _pickled(module: nn.Module, memory: Tensor) -> tuple[bytes | None, str]:
    """The module without the weights that lie in the memory, and what went wrong."""
    file = io.BytesIO()
    pickler = _Pickler(file, memory)
    try:
        pickler.dump(module)
        return pickle.dumps((pickler.places, file.getvalue())), ""
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # as pickle says that it cannot write an object
        return None, str(error)


class _Pickler(pickle.Pickler):
    """Writes of tensors in shared memory where they are."""

    def __init__(self, file: io.BytesIO, memory: Tensor) -> None:
        super().__init__(file)
        self.places: list[tuple[Any, ...]] = []
        self._memory = memory
        self._numbers: dict[int, int] = {}  # of tensors that were met, by their identity: tied ones stay tied

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor) or not is_plain(obj) or obj.device.type != "cpu":
            return None
        if id(obj) not in self._numbers:
            start = obj.data_ptr() - self._memory.data_ptr()
            if not 0 <= start < self._memory.nbytes:
                return None
            self._numbers[id(obj)] = len(self.places)
            self.places.append((type(obj), start, obj.nbytes, obj.dtype, obj.shape, obj.stride(), vars(obj)))
        return self._numbers[id(obj)]

    def reducer_override(self, obj: Any) -> Any:
        """torchao describes layers by bound partials, of which pickle looks for a name."""
        if isinstance(obj, MethodType) and not hasattr(obj.__func__, "__name__"):
            return _bound, (obj.__func__, obj.__self__)
        return NotImplemented


def _bound(function: Any, owner: object) -> MethodType:
    return MethodType(function, owner)


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, memory: Tensor) -> None:
        places, module = pickle.loads(pickled)
        super().__init__(io.BytesIO(module))
        self._tensors = [_placed(memory, *place) for place in places]

    def persistent_load(self, pid: Any) -> Tensor:
        return self._tensors[pid]


def _placed(
    memory: Tensor,
    kind: Any,
    start: int,
    nbytes: int,
    dtype: torch.dtype,
    shape: Sequence[int],
    strides: Sequence[int],
    attributes: Any,
) -> Tensor:
    tensor = tensor_in(memory, start, nbytes, dtype, shape, strides)
    if kind is nn.Parameter:
        tensor = nn.Parameter(tensor, requires_grad=False)
    elif kind is not Tensor:
        tensor = tensor.as_subclass(kind)
    vars(tensor).update(attributes)
    return tensor
