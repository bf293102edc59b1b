"""Loads weights in their original format, converted as diffusers' single-file loader does."""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import Tensor, nn

from engine.components.empty import empty_component
from engine.components.files import load_module, loading
from engine.components.parts import parts_of
from engine.components.reading import read_files
from engine.components.stored import StoredWeights, entry, renamed, shape_of, split_scales
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.fit import misfit
from engine.models.fp8 import Fp8Names, find_fp8
from engine.models.prefixes import OwnNames, own_names
from engine.models.quantised import check_plain, is_empty
from engine.models.single_files import files_of, is_gguf_file, is_safetensors
from engine.models.weights import weight_files
from parallel.diffusers_private import ignored_keys


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
        stored = stored_weights(kind, config, subfolder, module)
        # not placed by kind.from_single_file, which casts what is kept in float32 too: norms, tables of positions
        dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
        module.load_state_dict({name: stored.plain(name, dtypes[name]) for name in dtypes}, assign=True)
    return module.eval()


def stored_weights(kind: Any, config: Config, subfolder: str, empty: nn.Module) -> StoredWeights:
    """The weights of a component as its files hold them, from ``model.single_files`` or the model's folder.

    Args:
        empty: the component on the meta device; the weights have its names.

    Raises:
        ValueError: a tensor is missing, has another shape, or is not the module's; a phrase that names it.
    """
    path = config.model.single_files.get(subfolder)  # type: ignore[call-overload]
    if path is None:
        held = read_files(weight_files(config.model.path, subfolder))
        weights = {name: tensor for name, tensor in held.items() if not is_empty(name, entry(tensor))}
    else:
        weights, _ = _own_part(read_files(files_of(path)), subfolder, empty)
    return _converted(kind, weights, empty)


def check_fit(config: Config, facts: ModelFacts) -> list[str]:
    """Refuse files whose tensors are not those of the component. Reads names and shapes alone.

    Returns:
        A line for each file that holds something that is not used, or is not kept as it is.

    Raises:
        InvalidInput: one sentence that names the file and the first tensors.
    """
    parts, notes = parts_of(facts.family), []
    for subfolder, path in config.model.single_files.items():
        kind = parts.kind(subfolder)
        try:
            empty = empty_component(kind, config.model.path, subfolder, torch.float32)
            weights, found = _own_part(read_files(files_of(path), hollow=True), subfolder, empty)
            header = {name: entry(tensor) for name, tensor in weights.items()}
            if not path.endswith(".index.json") and not is_safetensors(Path(path)) and not is_gguf_file(path):
                check_plain(header, path)
            notes += _fp8_notes(config, path, find_fp8(header))
            _converted(kind, weights, empty)
        except InvalidInput:
            raise
        except Exception as error:  # the conversion of an unknown format raises anything
            reason = " ".join(str(error).split())[:400]
            raise InvalidInput(
                f"{path} does not fit the {subfolder} of {config.model.path} ({reason}): use the file of this very "
                "model, or correct model.single_files."
            ) from None
        if found.others:
            held = ", ".join(f"{number} under {prefix}." for prefix, number in found.others.items())
            notes.append(f"of {path} only the {subfolder} is used; tensors of other parts are not: {held}")
    return notes


def _fp8_notes(config: Config, path: str, found: Fp8Names) -> list[str]:
    notes = []
    if found.input_scales:
        notes.append(
            f"of {path} the {len(found.input_scales)} scales of inputs ({found.input_scales[0]}, ...) are not used: "
            "activations are not rounded, or with scales of their own"
        )
    if found.weights and config.model.quantize == "none":
        notes.append(f"{path} is in fp8 and is dequantised; model.quantize=fp8 keeps it as it is")
    return notes


def _own_part(weights: dict[str, Tensor], subfolder: str, empty: nn.Module) -> tuple[dict[str, Tensor], OwnNames]:
    """The tensors of the component, without prefixes; empty ones and markers are dropped."""
    full = {name: tensor for name, tensor in weights.items() if not is_empty(name, entry(tensor))}
    found = own_names(full, subfolder, {name.partition(".")[0] for name in empty.state_dict()})
    return {short: full[name] for name, short in found.own.items()}, found


def _converted(kind: Any, weights: dict[str, Tensor], empty: nn.Module) -> StoredWeights:
    """The weights under diffusers' names, which are exactly those of ``empty``.

    Raises:
        ValueError: a tensor is missing, has another shape, or is not the module's; a phrase that names it.
    """
    wanted = empty.state_dict()
    stored = split_scales(weights)
    if 2 * len(wanted.keys() & stored.tensors.keys()) < len(wanted):  # else the names are diffusers' own, but for some
        conversion = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"]
        stored = renamed(stored, lambda tensors: conversion(checkpoint=tensors))
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    held = {name: shape_of(tensor) for name, tensor in stored.tensors.items()}
    if problem := misfit(held, shapes, ignored_keys(kind)):
        raise ValueError(problem)
    return StoredWeights({name: stored.tensors[name] for name in wanted}, stored.scales)
