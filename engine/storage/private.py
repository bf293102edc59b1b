"""Files and folders for their owner alone, or for a group where the folder or the umask shares them.

What Lockstep keeps for itself (the queue, logs, checkpoints) holds prompts and paths, and a gang does what the queue
says. A new folder is 0700 and its files are 0600. They are shared, 2770 and 0660, where the folder above is made for a
group (setgid and writable for it) or where the umask leaves the group its write permission, as 002 and 007 do and 022
and 027 do not. A folder that exists keeps its mode, and its files follow it.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

SHARED_FOLDER = 0o2770
SHARED_FILE = 0o660
_OWN_FOLDER, _OWN_FILE = 0o700, 0o600


def make_private_folder(folder: Path) -> None:
    """Create a folder, and those above it that are missing; one that exists is left as it is.

    Raises:
        OSError: it cannot be created.
    """
    if folder.is_dir():
        return
    if not folder.parent.exists():
        make_private_folder(folder.parent)
    above = folder.parent.stat().st_mode
    shared = (is_shared(above) and bool(above & stat.S_ISGID)) or not umask() & stat.S_IWGRP
    folder.mkdir(mode=_OWN_FOLDER, exist_ok=True)
    if shared:
        set_mode(folder, SHARED_FOLDER)


def create_private_file(file: Path) -> None:
    """Create an empty file, unless it exists.

    Raises:
        OSError: it cannot be created.
    """
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWN_FILE))
    except FileExistsError:
        return
    make_private(file)


def make_private(file: Path) -> None:
    """Give a file that this process has written the mode that its folder says."""
    set_mode(file, SHARED_FILE if is_shared(file.parent.stat().st_mode) else _OWN_FILE)


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file or folder, where the file system has modes: some mounts refuse it, and decide themselves
    who may read."""
    with suppress(OSError):
        path.chmod(mode)


def is_shared(mode: int) -> bool:
    """Whether a folder of that mode (``st_mode``) is for a group: the group may write, and not everybody may."""
    return bool(mode & stat.S_IWGRP) and not mode & stat.S_IWOTH


def umask() -> int:
    """The umask of this process. Read from /proc where there is one: asking the system sets it for a moment, and a file
    that another thread creates meanwhile would be open to everybody."""
    with suppress(OSError):
        if found := re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
