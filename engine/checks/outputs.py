"""Checks before weights load that the output files can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engine.errors import InvalidInput
from engine.request import Outputs
from engine.storage.disks import existing_folder


def check_outputs(outputs: Outputs, model: Path) -> None:
    """Refuse an output that could not be written in the end.

    Args:
        model: the model's folder, in which nothing may be written.

    Raises:
        InvalidInput: one sentence that names the option, the value and what to do instead.
    """
    wanted = [("--output", outputs.video, ".mp4")] if outputs.video else []
    wanted += [("--report", outputs.report, ".json")] if outputs.report else []
    wanted += [("--latents", outputs.latents, ".safetensors")] if outputs.latents else []
    for option, path, suffix in wanted:
        _check_output(option, path, suffix)
        if _is_inside(path, model):
            raise InvalidInput(f"{option} is {str(path)!r}, which is inside the model folder: choose another.")


def check_folder(option: str, folder: Path, model: Path) -> None:
    """Refuse a folder in which no file could be written.

    Raises:
        InvalidInput: as :func:`check_outputs`.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{option} is {str(folder)!r}, which is a file: give a folder.")
    _check_output(option, folder / "results.json", ".json")
    if _is_inside(folder, model):
        raise InvalidInput(f"{option} is {str(folder)!r}, which is inside the model folder: choose another.")


def _is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _check_output(option: str, path: Path, suffix: str) -> None:
    def refuse(complaint: str) -> InvalidInput:
        return InvalidInput(f"{option} is {str(path)!r}, {complaint}.")

    if "\0" in str(path):
        raise refuse("which no file system takes: rename it")
    if path.suffix.lower() != suffix:
        raise refuse(f"but it must end in {suffix}: rename it")
    try:
        if os.path.islink(os.path.realpath(path)):
            raise refuse("a symbolic link that leads back to itself: choose another")
        if path.is_dir():
            raise refuse("which is a folder: add a file name")
        if path.exists() and not path.is_file():
            raise refuse("which is not an ordinary file: choose another")
        folder = existing_folder(Path(os.path.realpath(path)) if path.is_symlink() else path)
        if not folder.is_dir():
            raise refuse(f"but {folder} is a file, not a folder: choose another")
        if (error := _refusal_in(folder)) is not None:
            raise refuse(f"but the folder {folder} is not writable ({error.strerror}): choose another") from error
        if len(os.fsencode(path.name)) > _longest_name(folder) - _ROOM_FOR_TEMPORARY:
            raise refuse("a name too long for this file system: shorten it")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise refuse(f"which cannot be used ({reason}): choose another") from error


# files are written under a temporary name first, which is the name and a few letters
_ROOM_FOR_TEMPORARY = 32
_USUAL_NAME_MAX = 255


def _refusal_in(folder: Path) -> OSError | None:
    """What creating a file there fails with. Only a try can tell: permissions are not what counts on every mount, and
    root passes any check of them on read-only disks and in places like /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:  # a mount that does not say
        return _USUAL_NAME_MAX
