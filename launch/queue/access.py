"""Who may read and write a state folder. Whoever can write to it can have jobs run by the gangs that serve it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from engine.errors import InvalidInput
from engine.storage.private import SHARED_FILE, SHARED_FOLDER, is_shared, make_private, make_private_folder, set_mode

_NAMES = ("queue.db", "logs", "fallback")  # what Lockstep puts there
_ANYBODY = stat.S_IWOTH
_OTHERS = stat.S_IRWXO


def prepare_state_folder(folder: Path, group: bool, note: Callable[[str], None]) -> None:
    """Create the folder of the queue for its owner alone, or for a group, and close one that is open to others.

    Args:
        group: share it with the group that the folder belongs to; that is kept in the folder's mode.
        note: told in one line what was changed, or should be.

    Raises:
        InvalidInput: it cannot be created, or belongs to somebody else who would have to share it.
    """
    try:
        make_private_folder(folder)
        if group:
            _share(folder)
        else:
            _close(folder, note)
    except OSError as error:
        raise InvalidInput(
            f"The state folder {folder} cannot be made ({error.strerror}): choose another with --state."
        ) from None


def refuse_foreign(folder: Path) -> None:
    """Refuse a path on which somebody else could have put a folder or a symbolic link, as in /tmp.

    What lies in a folder that everybody may write to has to belong to this user, to root or to that folder's owner; or
    it is a folder that is shared with a group of this user's.

    Raises:
        InvalidInput: it is somebody else's.
    """
    for path in (*reversed(folder.parents), folder):
        try:
            found, above = path.lstat(), path.parent.stat()
        except OSError:
            return  # it is not there yet, or cannot be seen, which the queue says itself
        theirs = found.st_uid not in (os.getuid(), 0, above.st_uid)
        if path != path.parent and above.st_mode & _ANYBODY and theirs and not _is_ours_by_group(found):
            raise InvalidInput(
                f"{path}, on the way to the state folder, belongs to another user (id {found.st_uid}), and anybody may "
                f"write to {path.parent}: choose another folder with --state."
            )


def _is_ours_by_group(found: os.stat_result) -> bool:
    groups = {os.getegid(), *os.getgroups()}
    return stat.S_ISDIR(found.st_mode) and is_shared(found.st_mode) and found.st_gid in groups


def _share(folder: Path) -> None:
    """Open the folder, and what Lockstep has put into it, to its group.

    Raises:
        InvalidInput: it is not ours to share.
    """
    if folder.stat().st_uid != os.getuid() and not is_shared(folder.stat().st_mode):
        raise InvalidInput(
            f"The state folder {folder} belongs to another user (id {folder.stat().st_uid}), who alone can share it "
            "with --group."
        )
    for path in (folder, *_own_entries(folder)):
        if path.stat().st_uid == os.getuid():
            set_mode(path, SHARED_FOLDER if path.is_dir() else SHARED_FILE)


def _close(folder: Path, note: Callable[[str], None]) -> None:
    """Take a folder from those who are neither its owner nor, where it is shared, its group."""
    status = folder.stat()
    if status.st_uid != os.getuid():
        return
    if status.st_mode & _ANYBODY:
        note(
            f"anybody may write to the state folder {folder}, and so have jobs run as you: share it with its group "
            "alone with --group, or take the permission away"
        )
        return
    unwanted = _OTHERS if is_shared(status.st_mode) else _OTHERS | stat.S_IRWXG
    entries = [entry for entry in _own_entries(folder) if _is_open(entry, unwanted)]
    for path in (*([folder] if _is_only_ours(folder) and status.st_mode & unwanted else []), *entries):
        if path.is_dir():
            set_mode(path, stat.S_IMODE(path.stat().st_mode) & ~unwanted)
        else:
            make_private(path)
    if entries and not any(_is_open(entry, unwanted) for entry in entries):  # else the mount has no modes
        note(f"others could read the state folder {folder}: it is closed now, and --group shares it with its group")


def _is_open(path: Path, unwanted: int) -> bool:
    status = path.stat()
    return status.st_uid == os.getuid() and bool(status.st_mode & unwanted)


def _own_entries(folder: Path) -> list[Path]:
    """What Lockstep has put into the folder, and what is in those; no symbolic links."""
    top = [entry for entry in folder.iterdir() if entry.name.startswith(_NAMES)]
    inside = [entry for each in top if each.is_dir() and not each.is_symlink() for entry in each.iterdir()]
    return [entry for entry in (*top, *inside) if not entry.is_symlink()]


def _is_only_ours(folder: Path) -> bool:
    """Whether nothing else is in the folder: somebody may have said `--state .`, and needs it open for other things."""
    return all(entry.name.startswith(_NAMES) for entry in folder.iterdir())
