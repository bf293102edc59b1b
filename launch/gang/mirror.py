"""The files of work on a node that is not the driver's, whose disk the driver need not see.

Such a rank writes into a folder of its own, the mirror. The driver sends it what an earlier run has left, and fetches
what it writes, while it works and at the end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engine.storage.files import try_lock
from launch.process.scratch import make_scratch_folder

PIECE_BYTES = 8 << 20
"""Of a file, sent at a time."""
_LOCK = ".lockstep-mirror"
Stamp = tuple[int, int]
"""Modification time in nanoseconds and size in bytes of a file."""
Listing = Mapping[str, Stamp]
"""Files by their paths below a folder, in the POSIX form."""


class Mirror:
    """A temporary folder on a rank's node, in which it writes files that the driver fetches. To be ended with
    :meth:`remove`; what a killed process has left is removed by the next one."""

    def __init__(self) -> None:
        """
        Raises:
            InvalidInput: there is no place for temporary files.
        """
        self.folder = make_scratch_folder()
        _remove_abandoned(self.folder.parent)
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks
            try_lock(self._lock)

    def take(self, name: str, offset: int, piece: bytes) -> None:
        """Write a piece of a file that the driver has."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece)

    def listing(self) -> Listing:
        """The files that are in it."""
        return listing(self.folder, [self.folder])

    def read(self, name: str, stamp: Stamp, offset: int) -> bytes | None:
        """A piece of a file; None if it is another one than it was when it had that stamp."""
        try:
            with (self.folder / name).open("rb") as file:
                found = os.fstat(file.fileno())
                if (found.st_mtime_ns, found.st_size) != stamp:
                    return None
                file.seek(offset)
                return file.read(PIECE_BYTES)
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)


def listing(folder: Path, below: Sequence[Path]) -> Listing:
    """The files of a folder. Those whose names begin with a dot, or that are in such folders, are temporary ones of
    whoever writes there, and left out.

    Args:
        below: of its files only these, and those in these folders.
    """
    found: dict[str, Stamp] = {}
    for path in _files(below):
        with suppress(OSError):  # it was removed a moment ago
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = stat.st_mtime_ns, stat.st_size
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
        for parent, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (Path(parent, name) for name in names if not name.startswith("."))


def _remove_abandoned(place: Path) -> None:
    """Remove mirrors of this user whose processes have died: the system releases the locks of a dead process."""
    for lock in place.glob(f"*/{_LOCK}"):
        with suppress(OSError), lock.open("r+b") as opened:
            if os.fstat(opened.fileno()).st_uid == os.geteuid() and try_lock(opened.fileno()):
                shutil.rmtree(lock.parent, ignore_errors=True)
