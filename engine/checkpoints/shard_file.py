"""One rank's part of a checkpoint: a safetensors file, renamed when it is complete, with its checksum in the name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.storage.files import refuse_empty, save_tensors, sync, take_place
from engine.storage.private import make_private, make_private_folder

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"rank-(\d+)-of-(\d+)\.([0-9a-f]{64})\.safetensors")
_KEY = "lockstep"


def write(folder: Path, rank: int, ranks: int, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> int:
    """Write a rank's tensors, on the CPU, and plain JSON values; the file's SHA-256 becomes part of its name.

    Returns:
        Bytes written.

    Raises:
        OSError: the file cannot be written; no partial file is left.
    """
    make_private_folder(folder)
    handle, name = tempfile.mkstemp(prefix=f".rank-{rank}-", suffix=".partial", dir=folder)
    os.close(handle)
    partial = Path(name)
    try:
        save_tensors(tensors, partial, metadata={_KEY: json.dumps(plain)})
        make_private(partial)  # mkstemp's mode keeps out the group that the folder may be shared with
        sync(partial)
        refuse_empty(partial)
        size, file = partial.stat().st_size, folder / f"rank-{rank}-of-{ranks}.{_checksum(partial)}.safetensors"
        take_place(partial, file)
    finally:
        with suppress(OSError):  # of a disk that cannot be written any more
            partial.unlink(missing_ok=True)
    sync(folder)
    refuse_empty(file)
    return size


def find(folder: Path) -> list[Path] | None:
    """The files of all ranks in rank order; None if one is missing. Runs on different numbers of ranks may have left
    files here; those of one number of ranks are returned."""
    found: dict[int, dict[int, Path]] = {}  # by number of ranks, then rank
    for file in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(file.name):
            found.setdefault(int(match[2]), {})[int(match[1])] = file
    for ranks, files in sorted(found.items()):
        if sorted(files) == list(range(ranks)):
            return [files[rank] for rank in range(ranks)]
    return None


def is_whole(file: Path) -> bool:
    """Whether the content has the checksum of its name; reads all of it.

    Raises:
        OSError: it cannot be read, which says nothing of the content.
    """
    match = _NAME.fullmatch(file.name)
    try:
        return match is not None and _checksum(file) == match[3]
    except FileNotFoundError:
        return False


def read_plain(file: Path) -> dict[str, Any]:
    """The plain values of a file, without reading its tensors; needs no torch.

    Raises:
        ValueError: the file is damaged. OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > file.stat().st_size:
            raise ValueError(f"{file} is cut short")
        header = json.loads(stream.read(size))
    try:
        plain: dict[str, Any] = json.loads(header["__metadata__"][_KEY])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a part of a checkpoint") from error
    return plain


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
