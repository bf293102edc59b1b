"""Compares a model folder with the SHA-256 sums that it carries.

Names, shapes and dtypes do not tell a square matrix from its transpose, nor weights from others of the same model. A
folder that holds a ``SHA256SUMS``, as ``sha256sum`` writes it, is compared with it each time it is loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from engine.errors import InvalidInput

SUMS = "SHA256SUMS"
_GNU = re.compile(r"(?P<sum>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_BSD = re.compile(r"SHA256 \((?P<name>.+)\) ?= ?(?P<sum>[0-9a-fA-F]{64})")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")


def check_sums(model_path: str | Path, weights: Collection[Path]) -> None:
    """Refuse a folder with a file that is not the one in its list of sums. Files that the list does not name pass, and
    so does a folder without a list. Reads every weight file that is compared, so it takes about a second for 1 GB.

    Args:
        weights: the files of weights that are loaded; other weights in the list are not compared.

    Raises:
        InvalidInput: one sentence that names the file.
    """
    folder = Path(model_path)
    loaded = {file.resolve() for file in weights}
    for name, listed in read_sums(folder).items():
        file = folder / name
        if not file.is_file() or (file.suffix in _WEIGHTS and file.resolve() not in loaded):
            continue
        try:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read ({error.strerror}): download the model again.") from None
        if found != listed:
            raise InvalidInput(
                f"{file} is not the file in {folder / SUMS} (its SHA-256 is {found[:12]}..., not {listed[:12]}...): "
                "download the model again, or take the file off that list if it was changed on purpose."
            )


def read_sums(folder: Path) -> dict[str, str]:
    """The sums of a folder's list by the name of the file, relative to the folder; none if it has no list.

    Raises:
        InvalidInput: it cannot be read, or a line in it is none of sha256sum's.
    """
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder / SUMS} cannot be read ({error}): download it again, or remove it.") from None
    sums = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        entry = _GNU.fullmatch(line.rstrip()) or _BSD.fullmatch(line.rstrip())
        if entry is None:
            raise InvalidInput(
                f"{folder / SUMS} has {line[:80]!r} in line {number}, which sha256sum does not write: download it "
                "again, or remove it."
            )
        sums[entry["name"]] = entry["sum"].lower()
    return sums


def write_sums(folder: Path, files: Collection[Path]) -> None:
    """Write the list of a folder's files, sorted, as ``sha256sum`` does."""
    lines = []
    for file in sorted(files):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        lines.append(f"{digest}  {file.relative_to(folder).as_posix()}\n")
    (folder / SUMS).write_text("".join(lines))
