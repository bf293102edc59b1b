"""Weights of modules that lie one after the other in one row of bytes, so that one copy brings them all."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ALIGNMENT = 256  # bytes; kernels read matrices in aligned vectors


class WeightRow:
    """The order in which weights lie in a row of bytes."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """
        Args:
            modules: whose own parameters and buffers are meant, not those of their children. Tied ones are kept once.
        """
        self._weights: dict[int, tuple[Tensor, list[tuple[nn.Module, str]]]] = {}
        for module in modules:
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                self._weights.setdefault(id(tensor), (tensor, []))[1].append((module, name))
        self.nbytes = self._measure()

    def point_to(self, row: Tensor, fill: bool = False) -> None:
        """Make the modules use what lies in a row.

        Args:
            row: uint8, at least as long as this one.
            fill: put their weights there before, one after the other, so that they are never held twice.
        """
        start = 0

        def place(tensor: Tensor) -> Tensor:
            nonlocal start
            placed = tensor_in(row, start, tensor.nbytes, tensor.dtype, tensor.shape, _strides(tensor))
            start += _aligned(tensor.nbytes)
            return placed.copy_(tensor) if fill else placed

        with torch.inference_mode(False), torch.no_grad():
            for key, (tensor, owners) in self._weights.items():
                placed = _map_plain(tensor, place)
                if is_plain(tensor):
                    tensor.data = placed
                    continue
                value = nn.Parameter(placed, requires_grad=False) if isinstance(tensor, nn.Parameter) else placed
                for module, name in owners:  # a quantised tensor keeps its parts in attributes, which .data leaves
                    setattr(module, name, value)
                self._weights[key] = (value, owners)

    def _measure(self) -> int:
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += _aligned(tensor.nbytes)
            return tensor

        for tensor, _ in self._weights.values():
            _map_plain(tensor, count)
        return total


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has its numbers itself, rather than in other tensors, as quantised ones do."""
    return not hasattr(type(tensor), "__tensor_flatten__")


def tensor_in(
    row: Tensor, start: int, nbytes: int, dtype: torch.dtype, shape: Sequence[int], strides: Sequence[int]
) -> Tensor:
    """The tensor that lies in a row of bytes from ``start`` on."""
    return row[start : start + nbytes].view(dtype).as_strided(tuple(shape), tuple(strides))


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """As they are where the tensor is dense, which keeps convolutions channels last; else those of a contiguous one."""
    return tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _map_plain(tensor: Tensor, function: Callable[[Tensor], Tensor]) -> Any:
    """The function's result for a tensor, or for each plain tensor that a quantised one consists of, put together as
    before (torch's protocol for tensor subclasses)."""
    if is_plain(tensor):
        return function(tensor)
    names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    parts = {name: _map_plain(getattr(tensor, name), function) for name in names}
    return type(tensor).__tensor_unflatten__(parts, context, tensor.shape, tensor.stride())  # type: ignore[attr-defined]
