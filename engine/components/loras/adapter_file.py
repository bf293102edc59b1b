"""The file of an adapter: its header, its settings and its alphas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engine.components.loras.settings import Settings, header_alpha, read_settings
from engine.errors import InvalidInput
from engine.models.folder import read_header

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_NUMBERS = (*_FLOATS, "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
_SCALARS = ("alpha", "reshape_weight")
_MOST_VALUES = 4096
"""Of an alpha; a larger tensor of that name is none."""


@dataclass(frozen=True)
class AdapterFile:
    """What can be read of an adapter without its weights.

    shapes, dtypes: by the tensors' names; dtypes as safetensors spells them.
    small: values of the tensors whose names say that they are numbers, float64.
    noted_alpha: of the header, which is not applied.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    small: Mapping[str, Tensor]
    settings: Settings | None
    noted_alpha: float | None

    def numbers(self, name: str) -> list[float]:
        """The values of a small tensor.

        Raises:
            InvalidInput: they are no finite numbers; a sentence that names the tensor.
        """
        shape, dtype = self.shapes[name], self.dtypes[name]
        if dtype not in _NUMBERS or not 0 < prod(shape) <= _MOST_VALUES:
            raise InvalidInput(
                f"{self.path} holds {name} as {dtype} of the shape {list(shape)}, where numbers should be: "
                "download it again."
            )
        values = self.small[name]
        if not values.isfinite().all():
            raise InvalidInput(f"{self.path} holds {name}, which is not finite: download it again.")
        return [float(value) for value in values]

    def number(self, name: str) -> float:
        """The value of a tensor of one number, or of several that are equal.

        Raises:
            InvalidInput: it is none; a sentence that names the tensor.
        """
        values = self.numbers(name)
        if len(set(values)) > 1:
            raise InvalidInput(
                f"{self.path} holds {name} with {len(values)} different values, of which there should be one: "
                "download it again."
            )
        return values[0]

    def check_dtype(self, name: str) -> None:
        """Refuse a tensor that is not of floating-point numbers.

        Raises:
            InvalidInput: a sentence that names it.
        """
        if self.dtypes[name] not in _FLOATS:
            raise InvalidInput(
                f"{self.path} holds {name} as {self.dtypes[name]}, but only floating-point numbers are applied and no "
                "quantised ones: use the adapter in bfloat16."
            )


def open_adapter(path: Path) -> AdapterFile:
    """Read an adapter's header and settings.

    Raises:
        InvalidInput: the file or its settings are damaged, or of a kind that is not applied.
    """
    header = read_header(path, "download it again, or correct model.loras")
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: entry["dtype"] for name, entry in header.items()}
    with safe_open(path, framework="pt") as source:
        metadata = source.metadata() or {}
        small = {
            name: source.get_tensor(name).to(torch.float64).flatten()
            for name, shape in shapes.items()
            if name.endswith(_SCALARS) and dtypes[name] in _NUMBERS and prod(shape) <= _MOST_VALUES
        }
    return AdapterFile(
        path,
        shapes,
        dtypes,
        small,
        read_settings(path, metadata),
        header_alpha(metadata),
    )


def read_tensor(source: Any, name: str) -> Tensor:
    """A tensor of an opened file in float32, on the CPU.

    Raises:
        ValueError: it has NaN or infinity; a phrase that names it.
    """
    tensor: Tensor = source.get_tensor(name).to(torch.float32)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} is not finite")
    return tensor
