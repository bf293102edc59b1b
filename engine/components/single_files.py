"""Loads weights in their original format, converted as diffusers' single-file loader does."""

import pickle
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
from engine.models.fit import misfit
from engine.models.prefixes import OwnNames, own_names
from engine.models.quantised import check_plain, is_empty
from engine.models.single_files import files_of, is_safetensors
from parallel.diffusers_private import ignored_keys

_WRAPPED = ("state_dict", "module", "model")  # keys under which training scripts save the weights
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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
        weights, _ = _own_part(_read(files_of(path)), subfolder, module)
        weights = _converted(kind, weights, module)
        # not placed by kind.from_single_file, which casts what is kept in float32 too: norms, tables of positions
        for name, parameter in module.named_parameters():
            weights[name] = weights[name].to(parameter.dtype)
        module.load_state_dict(weights, assign=True)
    return module.eval()


def check_fit(config: Config, facts: ModelFacts) -> list[str]:
    """Refuse files whose tensors are not those of the component. Reads names and shapes alone.

    Returns:
        A line for each file that holds parts of other components, which are not used.

    Raises:
        InvalidInput: one sentence that names the file and the first tensors.
    """
    parts, notes = parts_of(facts.family), []
    for subfolder, path in config.model.single_files.items():
        kind = parts.kind(subfolder)
        try:
            empty = empty_component(kind, config.model.path, subfolder, torch.float32)
            weights, found = _own_part(_read(files_of(path), torch.device("meta")), subfolder, empty)
            if not path.endswith(".index.json") and not is_safetensors(Path(path)):
                check_plain({name: _entry(tensor) for name, tensor in weights.items()}, path)
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


def _read(files: list[Path], device: torch.device | None = None) -> dict[str, Tensor]:
    """The tensors of all files under their original names; mapped rather than read, or without data on "meta".

    Raises:
        ValueError: two files hold a tensor of the same name, or a pickled file holds something else; a phrase.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        held = _unpickled(file) if not is_safetensors(file) else _mapped(file) if device is None else _hollow(file)
        if twice := next((name for name in held if name in weights), None):
            raise ValueError(f"{twice} is in two of the files")
        weights |= held
    return weights if device is None else {name: tensor.to(device) for name, tensor in weights.items()}


def _mapped(file: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(file)
    return weights


def _hollow(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as source:
        return {
            name: torch.empty(source.get_slice(name).get_shape(), device="meta")
            for name in source.keys()  # noqa: SIM118  it is no dictionary
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


def _entry(tensor: Tensor) -> dict[str, Any]:
    """As the header of a safetensors file has it."""
    return {"dtype": _DTYPES.get(tensor.dtype, str(tensor.dtype)), "shape": tuple(tensor.shape)}


def _own_part(weights: dict[str, Tensor], subfolder: str, empty: nn.Module) -> tuple[dict[str, Tensor], OwnNames]:
    """The tensors of the component, without prefixes; empty ones and markers are dropped."""
    full = {name: tensor for name, tensor in weights.items() if not is_empty(name, _entry(tensor))}
    found = own_names(full, subfolder, {name.partition(".")[0] for name in empty.state_dict()})
    return {short: full[name] for name, short in found.own.items()}, found


def _converted(kind: Any, weights: dict[str, Tensor], empty: nn.Module) -> dict[str, Tensor]:
    """The weights under diffusers' names, which are exactly those of ``empty``.

    Raises:
        ValueError: a tensor is missing, has another shape, or is not the module's; a phrase that names it.
    """
    wanted = empty.state_dict()
    if 2 * len(wanted.keys() & weights.keys()) < len(wanted):  # else the names are diffusers' own, but for some
        weights = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"](checkpoint=weights)
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    if problem := misfit({name: tensor.shape for name, tensor in weights.items()}, shapes, ignored_keys(kind)):
        raise ValueError(problem)
    return {name: weights[name] for name in wanted}
