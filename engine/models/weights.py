"""The weight files of a component in a model folder: found, and checked without reading a weight."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.models.folder import read_header, read_index, read_json
from engine.models.fp8 import Fp8Names, check_marks, find_fp8
from engine.models.quantised import check_configuration, check_plain, is_empty

_DIFFUSERS = ("transformer", "transformer_2", "vae")
_ADVICE = "download the model again"
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".distcp")


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files of a component, each with the names of its tensors if there is an index."""

    files: Mapping[Path, Sequence[str]]
    variant: str | None = None
    """What stands in their names before the ending: "fp16" of model.fp16.safetensors."""


def find_weights(model_path: str | Path, component: str) -> WeightFiles:
    """The files that diffusers or transformers reads for a component ("transformer", "vae", "text_encoder").

    Files without a variant in their names go before others; a single variant is taken where there are no others.

    Raises:
        InvalidInput: there are none, or it is open which of several are meant; one sentence that names them.
    """
    folder, is_diffusers = Path(model_path) / component, component in _DIFFUSERS
    stem = "diffusion_pytorch_model" if is_diffusers else "model"
    single, shards = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    # where there are both, diffusers reads the index and transformers the single file
    order = (shards, single) if is_diffusers else (single, shards)
    for name in order:
        if (folder / name).is_file():
            return WeightFiles(_listed(folder / name))
    variants = _variants(folder, stem)
    if len(variants) > 1:
        raise InvalidInput(
            f"The weights {folder / single} are missing, and {folder} holds several variants of them "
            f"({', '.join(sorted(variants))}): keep the one that is meant, or rename it to {single}."
        )
    for variant, names in variants.items():
        for name in (_with_variant(name, variant) for name in order):
            if name in names:
                return WeightFiles(_listed(folder / name), variant)
    raise InvalidInput(f"The weights {folder / single} are missing{_found_instead(folder, single)}.")


def weight_files(model_path: str | Path, component: str) -> list[Path]:
    """The safetensors files of a component, as :func:`find_weights` finds them."""
    return list(find_weights(model_path, component).files)


def weight_variant(model_path: str | Path, component: str) -> str | None:
    """The variant that :func:`find_weights` finds, as ``from_pretrained`` takes it."""
    return find_weights(model_path, component).variant


def read_tensors(model_path: str | Path, component: str) -> dict[str, Any]:
    """``dtype`` and ``shape`` of every tensor in a component's files, from their headers.

    Raises:
        InvalidInput: a file is missing or damaged, lacks a tensor that its index lists, or has one that another file
            has as well; one sentence that names the file.
    """
    found: dict[str, Any] = {}
    where: dict[str, Path] = {}
    for file, listed in find_weights(model_path, component).files.items():
        held = read_header(file, _ADVICE)
        lacking = next((tensor for tensor in listed if tensor not in held), None)
        if lacking:
            raise InvalidInput(f"The weights {file} lack {lacking}, which their index says they hold: {_ADVICE}.")
        # the libraries would take the one of the file that they read last, whatever the index says
        if twice := next((tensor for tensor in held if tensor in found), None):
            raise InvalidInput(f"The weights {file} hold {twice}, which {where[twice].name} holds as well: {_ADVICE}.")
        found |= held
        where |= dict.fromkeys(held, file)
    return found


def check_weights(model_path: str | Path, component: str) -> None:
    """Refuse a component whose weight files are missing, damaged, ambiguous or quantised. Names and shapes are compared
    with the model's by :func:`engine.components.tensors.check_tensors`, which needs torch.

    Raises:
        InvalidInput: one sentence that names the file.
    """
    folder = Path(model_path) / component
    settings = read_json(folder / "config.json")
    check_configuration(folder, settings)
    if named := settings.get("transformers_weights"):
        raise InvalidInput(f"{folder / 'config.json'} names {named} as its weights: rename them, and remove that key.")
    if (folder / "adapter_config.json").is_file():
        raise InvalidInput(f"{folder} is a PEFT adapter, and no {component}: merge it into the model that it is for.")
    held = read_tensors(model_path, component)
    check_plain(held, folder)
    if fp8_of(held).marks:
        for file in weight_files(model_path, component):
            check_marks(file, read_header(file, _ADVICE))


def fp8_of(held: Mapping[str, Any]) -> Fp8Names:
    """What of the tensors of :func:`read_tensors` is in float8.

    Raises:
        ValueError: as of :func:`engine.models.fp8.find_fp8`; not for tensors that :func:`check_weights` has passed.
    """
    return find_fp8({name: entry for name, entry in held.items() if not is_empty(name, entry)})


def _listed(file: Path) -> dict[Path, list[str]]:
    return {file: []} if file.suffix == ".safetensors" else read_index(file)


def _variants(folder: Path, stem: str) -> dict[str, list[str]]:
    """Names of files and indexes by the variant in them. Shards that an index lists are none."""
    single = re.compile(rf"{stem}\.(?P<variant>[^.]+)\.safetensors")
    index = re.compile(rf"{stem}\.safetensors\.index\.(?P<variant>[^.]+)\.json")
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob(f"{stem}.*")):
        named = single.fullmatch(file.name) or index.fullmatch(file.name)
        if named and not re.fullmatch(r".+-\d{5}-of-\d{5}", named["variant"]):
            found.setdefault(named["variant"], []).append(file.name)
    return found


def _with_variant(name: str, variant: str) -> str:
    start, _, end = name.rpartition(".")
    return f"{start}.{variant}.{end}"


def _found_instead(folder: Path, wanted: str) -> str:
    """What the folder has in the place of the wanted file, and what to do."""
    try:
        files = sorted(name for name in os.listdir(folder) if name != wanted)
    except OSError:  # there is no such folder, or it may not be read
        files = []
    for file in files:
        if file.endswith(".gguf"):
            return (
                f", but the GGUF file {file} is there: name it in model.single_files if it is a transformer; other "
                "parts are needed in safetensors"
            )
        if _SHARD.fullmatch(file):
            return f", and {file} has no {wanted}.index.json beside it: {_ADVICE}"
        if file in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
            return f", but {file} is there, which is a LoRA: have the model in model.path, and name it in model.loras"
        if file.endswith(".safetensors"):
            return f", but {file} is there: rename it if those are the weights, or {_ADVICE}"
    for file in files:
        if file.endswith(_OTHER_FORMATS):
            return f", but {file} is there, and Lockstep reads folders in safetensors alone: convert it to {wanted}"
    return f": {_ADVICE}"
