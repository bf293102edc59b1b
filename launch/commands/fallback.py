"""The default of --fallback."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.errors import InvalidInput
from engine.storage.disks import probe
from engine.storage.files import absolute
from launch.jobs.options import Options
from launch.process.signals import is_rank
from launch.queue.state_folder import state_folder

_NAME = "fallback"


def with_fallback(options: Options, state: Path | None) -> Options:
    """The options with a folder for checkpoints that the video's disk does not take, as an absolute path.

    Args:
        state: the state folder as it was given, in which the folder is by default.

    Raises:
        InvalidInput: --fallback is no folder that can be written to.
    """
    if options.fallback is not None:
        return replace(options, fallback=_checked(options.fallback))
    with suppress(InvalidInput):  # no home folder: there is none
        return replace(options, fallback=state_folder(state) / _NAME)
    return options


def _checked(given: Path) -> Path:
    try:
        folder = absolute(given.expanduser())
        # a rank need not be on the machine where the folder is
        error = None if is_rank() else probe(folder)
    except (OSError, RuntimeError, ValueError) as failed:  # RuntimeError: no home folder for "~"
        raise InvalidInput(f"--fallback is {str(given)!r}, which is no folder ({failed}): choose another.") from None
    if error is not None or (folder.exists() and not folder.is_dir()):
        reason = error.strerror if error else "it is a file"
        raise InvalidInput(f"--fallback is {str(given)!r}, which cannot be written to ({reason}): choose another.")
    return folder
