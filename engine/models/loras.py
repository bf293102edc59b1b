"""Checks of LoRA files that need no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.config import Config, LoraConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.folder import read_header

_PUBLISHED_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # by diffusers and by peft
_ENDINGS = (".safetensors", ".sft")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def lora_file(lora: LoraConfig) -> Path:
    """The file of an adapter. In a folder it is the file that diffusers or peft writes, or else the only one in
    safetensors.

    Raises:
        InvalidInput: there is no such file, or more than one; one sentence.
    """
    path = Path(lora.path)
    if path.is_file():
        if path.suffix not in _ENDINGS:
            kind = "a pickle of Python objects" if path.suffix in _PICKLES else "no .safetensors file"
            raise InvalidInput(f"model.loras names {path}, which is {kind}: convert it to safetensors.")
        return path
    if not path.is_dir():
        raise InvalidInput(f"model.loras names {path}, which does not exist: correct the path.")
    for name in _PUBLISHED_NAMES:
        if (path / name).is_file():
            return path / name
    files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS)
    if len(files) == 1:
        return files[0]
    if files:
        raise InvalidInput(
            f"model.loras names the folder {path}, which holds {len(files)} files in safetensors: name the file."
        )
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise InvalidInput(
            f"model.loras names the folder {path}, which holds {pickles[0]}, a pickle of Python objects: convert it to "
            "safetensors."
        )
    raise InvalidInput(f"model.loras names the folder {path}, which holds no file in safetensors: name the file.")


def check_lora_files(config: Config, facts: ModelFacts) -> None:
    """Refuse adapters that this model cannot take, and files that are missing or damaged.

    Raises:
        InvalidInput: one sentence that names the file or the key.
    """
    loras: Sequence[LoraConfig] = config.model.loras
    if not loras:
        return
    for lora in loras:
        if lora.transformer not in facts.transformers:
            raise InvalidInput(
                f"model.loras adds {lora.path} to {lora.transformer}, but this model has one transformer: "
                "use transformer."
            )
        read_header(lora_file(lora), "download it again, or correct model.loras")
