"""Weights as files hold them, in any float dtype: float8 with its scales, GGUF's blocks of numbers, or plain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.fp8 import find_fp8

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.uint8: "U8",
}
"""As safetensors spells them."""
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class StoredWeights:
    """Tensors by name, not yet in the dtypes of a module.

    tensors: mapped from files, so that they take no memory of this process before they are used.
    scales: of tensors in float8, float32 [rows, 1, ...], one number for each row; others have the scale 1.
    """

    tensors: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]

    def plain(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor in a dtype of the arithmetic; the stored one itself where it is in that dtype already."""
        tensor = self.tensors[name]
        if is_gguf(tensor):
            from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

            plain: Tensor = dequantize_gguf_tensor(tensor).to(dtype)
            return plain
        if name in self.scales:
            return (tensor.to(torch.float32) * self.scales[name]).to(dtype)
        return tensor.to(dtype)

    def rows(self, name: str) -> Tensor:
        """The scales of a matrix in float8: float32 [rows, 1]."""
        scales = self.scales.get(name)
        return torch.ones(self.tensors[name].shape[0], 1) if scales is None else scales


def split_scales(weights: Mapping[str, Tensor]) -> StoredWeights:
    """Tensors as a file holds them, with the scales of those in float8 put into the shape of rows.

    Raises:
        ValueError: as of :func:`engine.models.fp8.find_fp8`.
    """
    found = find_fp8({name: entry(tensor) for name, tensor in weights.items()})
    scales = {}
    for name, scale in found.scales.items():
        weight, numbers = weights[name], weights[scale].to(torch.float32).flatten()
        rows = weight.shape[0] if weight.ndim else 1
        scales[name] = numbers.expand(rows).reshape(rows, *[1] * (weight.ndim - 1))
    return StoredWeights({name: tensor for name, tensor in weights.items() if name not in found.beside}, scales)


def renamed(stored: StoredWeights, rename: Rename) -> StoredWeights:
    """The same weights after a conversion that renames tensors, and cuts, joins or swaps their rows.

    The scales have a number for each row, so they are converted as if they were the weights.
    """
    if not stored.scales:
        return StoredWeights(rename(dict(stored.tensors)), {})
    ones = {
        name: torch.ones((tensor.shape[0], *[1] * (tensor.ndim - 1)), device=tensor.device)
        for name, tensor in stored.tensors.items()
        if name not in stored.scales and tensor.ndim
    }
    tensors = rename(dict(stored.tensors))
    scales = rename(dict(stored.tensors) | ones | dict(stored.scales))
    return StoredWeights(tensors, {name: scales[name] for name, tensor in tensors.items() if tensor.dtype in FP8})


def is_gguf(tensor: Tensor) -> bool:
    """Whether it is a tensor of diffusers' for GGUF's blocks of numbers."""
    return hasattr(tensor, "quant_type")


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of the weight, which GGUF's blocks do not have."""
    return tuple(tensor.quant_shape) if is_gguf(tensor) else tuple(tensor.shape)  # type: ignore[attr-defined]


def entry(tensor: Tensor) -> dict[str, Any]:
    """As the header of a safetensors file has it; GGUF's blocks are a dtype of their own."""
    if is_gguf(tensor):
        return {"dtype": "GGUF", "shape": shape_of(tensor)}
    return {"dtype": DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), "shape": tuple(tensor.shape)}
