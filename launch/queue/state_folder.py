"""The folder of the queue."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import InvalidInput
from engine.storage.files import absolute
from launch.queue.access import refuse_foreign

VARIABLE = "LOCKSTEP_STATE"


def state_folder(given: Path | None) -> Path:
    """The folder given with --state, else that in $LOCKSTEP_STATE, else the user's own; as an absolute path.

    Raises:
        InvalidInput: the path begins with "~", or is the user's own, and there is no home folder; or somebody else
            could have put a folder of theirs there.
    """
    try:
        chosen = given or Path(os.environ.get(VARIABLE) or _users_own())
        folder = absolute(chosen.expanduser())
    except RuntimeError:  # no home folder for "~"
        raise InvalidInput("There is no home folder for the queue of jobs: name a folder with --state.") from None
    refuse_foreign(folder)
    return folder


def _users_own() -> Path:
    """As the XDG base directory specification says, which ignores relative paths."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "lockstep"
