"""Components of a model's folder whose weights are in float8, dequantised as they are read."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from engine.components.empty import empty_component
from engine.components.reading import read_files
from engine.components.stored import FP8, entry, split_scales
from engine.models.quantised import is_empty
from engine.models.weights import fp8_of, read_tensors, weight_files


def is_in_fp8(path: str | Path, component: str) -> bool:
    """Whether a component of a model's folder holds weights in float8; reads headers alone."""
    return bool(fp8_of(read_tensors(path, component)).weights)


def load_dequantised(kind: Any, path: str, component: str, dtype: torch.dtype) -> Any:
    """The component in the dtypes of ``kind.from_pretrained(dtype=dtype)``, on the CPU.

    Args:
        kind: a class of diffusers or transformers.

    Raises:
        OSError, ValueError, RuntimeError: a file cannot be read, or does not hold the component.
    """
    held = read_files(weight_files(path, component))
    stored = split_scales({name: tensor for name, tensor in held.items() if not is_empty(name, entry(tensor))})
    if issubclass(kind, ModelMixin):
        module = empty_component(kind, path, component, dtype)
        dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
        module.load_state_dict({name: stored.plain(name, dtypes[name]) for name in dtypes}, assign=True)
        return module
    plain = {name: stored.plain(name, dtype) if t.dtype in FP8 else t for name, t in stored.tensors.items()}
    settings = kind.config_class.from_pretrained(path, subfolder=component, local_files_only=True)
    return kind.from_pretrained(None, config=settings, state_dict=plain, dtype=dtype)
