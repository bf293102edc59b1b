"""Checks of weight files in the original format that need no torch."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.folder import read_header, read_index
from engine.models.fp8 import check_marks
from engine.models.prefixes import split_parts
from engine.models.quantised import check_plain

_INDEX = ".index.json"
_PICKLED = (".pth", ".pt", ".ckpt", ".bin")
_SAFETENSORS = (".safetensors", ".sft")
_ADVICE = "download it again, or correct model.single_files"


def files_of(path: str) -> list[Path]:
    """The weight files for a path in ``model.single_files``: the file itself, or those that an index lists.

    Raises:
        InvalidInput: the index cannot be read or lists nothing.
    """
    return list(read_index(Path(path))) if path.endswith(_INDEX) else [Path(path)]


def check_single_files(config: Config, facts: ModelFacts, replica_size: int) -> None:
    """Refuse files for components that this model lacks or diffusers cannot convert, or that are missing or damaged.

    Args:
        replica_size: ranks that work on one video.

    Raises:
        InvalidInput: one sentence that names the file or the key.
    """
    for component, path in config.model.single_files.items():
        if component not in (*facts.transformers, "vae"):
            raise InvalidInput(f"model.single_files names a {component}, but this model has none: leave it out.")
        if component not in facts.family.single_files:
            raise InvalidInput(
                f"model.single_files names a {component}, but diffusers cannot convert that of {facts.family.name} "
                "from its original format: leave it out, and have it in model.path."
            )
        if config.parallel.shard_weights and replica_size > 1 and component != "vae":
            raise InvalidInput(
                f"parallel.shard_weights is true, but the {component} of model.single_files is converted whole: "
                "use shard_weights=false, or have it in model.path."
            )
        for file in files_of(path):
            _check_file(file, component)


def is_safetensors(file: Path) -> bool:
    """Whether a file is in the safetensors format, by its name."""
    return file.suffix in _SAFETENSORS


def read_names(path: str, component: str) -> dict[str, Any]:
    """``dtype`` and ``shape`` by name of the tensors in safetensors files that may belong to a component.

    Raises:
        InvalidInput: a file is missing or damaged.
    """
    return {name: entry for file in files_of(path) for name, entry in _own_header(file, component).items()}


def is_gguf_file(file: Path | str) -> bool:
    """Whether a file is in the GGUF format, by its name."""
    return Path(file).suffix == ".gguf"


def _check_file(file: Path, component: str) -> None:
    if is_safetensors(file):
        own = _own_header(file, component)
        check_plain(own, file)
        check_marks(file, own)
    elif is_gguf_file(file):
        _check_gguf(file, component)
    elif file.suffix not in _PICKLED:
        raise InvalidInput(
            f"model.single_files names {file}, which ends neither in .safetensors or .gguf nor in "
            f"{', '.join(_PICKLED)}: "
            "name a file of weights."
        )
    elif not file.is_file():
        raise InvalidInput(f"The weights {file} are missing: {_ADVICE}.")
    else:
        try:
            whole = zipfile.is_zipfile(file)  # the table of contents is at the end
        except OSError as error:
            raise InvalidInput(f"The weights {file} cannot be read ({error.strerror}): {_ADVICE}.") from None
        if not whole:
            raise InvalidInput(f"The weights {file} are cut short, damaged or not what torch.save writes: {_ADVICE}.")


def _own_header(file: Path, component: str) -> dict[str, Any]:
    header = read_header(file, _ADVICE)
    own, _ = split_parts(header, component)  # other parts are not loaded
    return {name: header[name] for name in own}


def _check_gguf(file: Path, component: str) -> None:
    if component == "vae":
        raise InvalidInput(
            f"model.single_files names {file} for the vae, but only transformers are run from GGUF files: use the VAE "
            "in safetensors."
        )
    try:
        with file.open("rb") as stream:
            whole = stream.read(4) == b"GGUF"
    except OSError as error:
        raise InvalidInput(f"The weights {file} cannot be read ({error.strerror}): {_ADVICE}.") from None
    if not whole:
        raise InvalidInput(f"The weights {file} are no GGUF file: {_ADVICE}.")
