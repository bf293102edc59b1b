"""Checks of weight files in the original format that need no torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.folder import read_header, read_index

_INDEX = ".index.json"
_PICKLED = (".pth", ".pt", ".ckpt", ".bin")
_DTYPES = ("F64", "F32", "BF16", "F16")
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
            _check_file(file)


def _check_file(file: Path) -> None:
    if file.suffix == ".safetensors":
        for name, entry in read_header(file, _ADVICE).items():
            if entry.get("dtype") not in _DTYPES:
                raise InvalidInput(
                    f"{file} holds {name} as {entry.get('dtype')}, but Lockstep runs no quantised weights: use "
                    "the file in bf16, fp16 or fp32."
                )
    elif file.suffix not in _PICKLED:
        raise InvalidInput(
            f"model.single_files names {file}, which ends neither in .safetensors nor in {', '.join(_PICKLED)}: "
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
