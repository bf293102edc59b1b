"""Reads the tensors of weight files: safetensors, GGUF, and what torch.save writes."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from engine.components.gguf_files import read_gguf
from engine.components.stored import DTYPE_NAMES
from engine.models.single_files import is_gguf_file, is_safetensors

_WRAPPED = ("state_dict", "module", "model")  # keys under which training scripts save the weights
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def read_files(files: Sequence[Path], hollow: bool = False) -> dict[str, Tensor]:
    """The tensors of all files under the names that they have there, mapped rather than read.

    Args:
        hollow: leave them on the meta device, in their dtypes; those of GGUF files are mapped all the same.

    Raises:
        ValueError: two files hold a tensor of the same name, or a pickled file holds something else; a phrase.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        held = _held(file, hollow)
        if twice := next((name for name in held if name in weights), None):
            raise ValueError(f"{twice} is in two of the files")
        weights |= held
    return weights


def _held(file: Path, hollow: bool) -> dict[str, Tensor]:
    """The tensors of a file; hollow ones are without data where the format has a header of its own."""
    if is_gguf_file(file):
        return read_gguf(file)
    if not is_safetensors(file):
        tensors = _unpickled(file)
        return {name: tensor.to("meta") for name, tensor in tensors.items()} if hollow else tensors
    return _hollow(file) if hollow else _mapped(file)


def _mapped(file: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(file)
    return weights


def _hollow(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as source:
        slices = {name: source.get_slice(name) for name in source.keys()}  # noqa: SIM118  it is no dictionary
        return {
            name: torch.empty(part.get_shape(), dtype=_DTYPES.get(part.get_dtype(), torch.float32), device="meta")
            for name, part in slices.items()
        }


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"it cannot be unpickled safely: {error}") from None
    while isinstance(content, Mapping) and (inner := next((key for key in _WRAPPED if key in content), None)):
        content = content[inner]
    if isinstance(content, Mapping):
        tables = [value for value in content.values() if _is_table(value)]
        if len(tables) == 1:  # under another key, beside a step number or the like
            content = tables[0]
    if not _is_table(content):
        raise ValueError("it holds no plain table of tensors")
    return dict(content)


def _is_table(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
