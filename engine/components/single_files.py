"""Loads weights in their original format, converted as diffusers' single-file loader does."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.components.empty import empty_component
from engine.components.files import load_module, loading
from engine.components.parts import parts_of
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.single_files import files_of
from parallel.diffusers_private import ignored_keys

_WRAPPED = ("state_dict", "module", "model")  # keys under which training scripts save the weights


def load_weights(kind: Any, config: Config, subfolder: str, dtype: torch.dtype) -> Any:
    """A component of the model, from the file that ``model.single_files`` names for it or else from its folder.

    Returns:
        A ``kind`` on the CPU, in the dtypes of ``kind.from_pretrained(dtype=dtype)``.

    Raises:
        RankFailure: a file cannot be loaded.
    """
    path = config.model.single_files.get(subfolder)  # type: ignore[call-overload]
    if path is None:
        return load_module(kind, config.model.path, subfolder, dtype)
    with loading(subfolder, path):
        module = empty_component(kind, config.model.path, subfolder, dtype)
        weights = _converted(kind, _read(files_of(path)), module)
        # not placed by kind.from_single_file, which casts what is kept in float32 too: norms, tables of positions
        for name, parameter in module.named_parameters():
            weights[name] = weights[name].to(parameter.dtype)
        module.load_state_dict(weights, assign=True)
    return module.eval()


def check_fit(config: Config, facts: ModelFacts) -> None:
    """Refuse files whose tensors are not those of the component. Reads names and shapes alone.

    Raises:
        InvalidInput: one sentence that names the file and a tensor.
    """
    parts = parts_of(facts.family)
    for subfolder, path in config.model.single_files.items():
        kind = parts.vae if subfolder == "vae" else parts.transformer
        try:
            empty = empty_component(kind, config.model.path, subfolder, torch.float32)
            _converted(kind, _read(files_of(path), torch.device("meta")), empty)
        except Exception as error:  # the conversion of an unknown format raises anything
            reason = " ".join(str(error).split())[:300]
            raise InvalidInput(
                f"{path} does not fit the {subfolder} of {config.model.path} ({reason}): use the file of this very "
                "model, or correct model.single_files."
            ) from None


def _read(files: list[Path], device: torch.device | None = None) -> dict[str, Tensor]:
    """The tensors of all files under their original names; mapped rather than read, or without data on "meta"."""
    weights: dict[str, Tensor] = {}
    for file in files:
        if file.suffix != ".safetensors":
            weights |= _unpickled(file)
        elif device is None:
            weights |= load_file(file)
        else:
            with safe_open(file, framework="pt") as source:
                for name in source.keys():  # noqa: SIM118  it is no dictionary
                    weights[name] = torch.empty(source.get_slice(name).get_shape(), device=device)
    return weights if device is None else {name: tensor.to(device) for name, tensor in weights.items()}


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"it cannot be unpickled safely: {error}") from None
    while isinstance(content, Mapping) and (inner := next((key for key in _WRAPPED if key in content), None)):
        content = content[inner]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("it holds no plain table of tensors")
    return dict(content)


def _converted(kind: Any, weights: dict[str, Tensor], empty: nn.Module) -> dict[str, Tensor]:
    """The weights under diffusers' names, which are exactly those of ``empty``.

    Raises:
        ValueError: a tensor is missing, has another shape, or is not the module's; a phrase that names it.
    """
    wanted = empty.state_dict()
    if not wanted.keys() <= weights.keys():
        weights = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"](checkpoint=weights)
    ignored = [re.compile(pattern) for pattern in ignored_keys(kind)]
    for name, tensor in wanted.items():
        if name not in weights:
            raise ValueError(f"the tensor {name} is missing")
        if weights[name].shape != tensor.shape:
            raise ValueError(f"{name} has the shape {list(weights[name].shape)} instead of {list(tensor.shape)}")
    for name in weights.keys() - wanted.keys():
        if not any(pattern.search(name) for pattern in ignored):
            raise ValueError(f"it holds {name}, which this model does not have")
    return {name: weights[name] for name in wanted}
