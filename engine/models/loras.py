"""Checks of LoRA files that need no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.config import Config, LoraConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.folder import read_header

_PUBLISHED_NAME = "pytorch_lora_weights.safetensors"


def lora_file(lora: LoraConfig) -> Path:
    """The file of an adapter. In a folder it is the file that diffusers writes, or else the only safetensors file.

    Raises:
        InvalidInput: there is no such file, or more than one; one sentence.
    """
    path = Path(lora.path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InvalidInput(f"model.loras names {path}, which is no .safetensors file: convert it to one.")
        return path
    if not path.is_dir():
        raise InvalidInput(f"model.loras names {path}, which does not exist: correct the path.")
    if (path / _PUBLISHED_NAME).is_file():
        return path / _PUBLISHED_NAME
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        held = f"{len(files)} files" if files else "no file"
        raise InvalidInput(f"model.loras names the folder {path}, which holds {held} in safetensors: name the file.")
    return files[0]


def check_lora_files(config: Config, facts: ModelFacts) -> None:
    """Refuse adapters that this model cannot take, and files that are missing or damaged.

    Raises:
        InvalidInput: one sentence that names the file or the key.
    """
    loras: Sequence[LoraConfig] = config.model.loras
    if not loras:
        return
    if not facts.family.lora_loader:
        raise InvalidInput(
            f"model.loras is given, but diffusers loads no adapters for {facts.family.name}: leave it out."
        )
    for lora in loras:
        if lora.transformer not in facts.transformers:
            raise InvalidInput(
                f"model.loras adds {lora.path} to {lora.transformer}, but this model has one transformer: "
                "use transformer."
            )
        read_header(lora_file(lora), "download it again, or correct model.loras")
