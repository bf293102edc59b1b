"""What mounts refuse and disks fail at: which errors may be passed over, which pass with time, and how much is free."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# of permissions, ownership, fsync of folders and the like, on mounts that have none: FAT, SMB, FUSE, object stores
_REFUSALS = {
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EBADF,
    errno.EISDIR,
}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
# these stay, however long one waits
_LASTING = {errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP}
_PROBE_BYTES = 1 << 16
# libraries in Rust report errors of the system as text
_ERRNO_IN_TEXT = re.compile(r"os error (\d+)")


@contextmanager
def refusals_passed_over() -> Iterator[None]:
    """Go on where a mount refuses what is inside, since it has no such thing. Other errors are raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


class Unmounted(OSError):
    """The disk has gone from its mount point."""

    def __init__(self, mount: Path) -> None:
        super().__init__(errno.ENODEV, f"{mount} is not mounted any more")
        self.mount = mount


@dataclass(frozen=True)
class Trouble:
    """A write that failed. Plain data, which other ranks are told."""

    folder: Path
    errno: int | None
    reason: str
    """Of the system: "No space left on device"."""
    mount: Path | None = None
    """The mount point from which the disk has gone, if that is it."""

    @classmethod
    def of(cls, error: OSError, folder: Path) -> Trouble:
        """
        Args:
            folder: that was written to.
        """
        number = error.errno if error.errno is not None else errno_in(str(error))
        text = error.strerror or (os.strerror(number) if number is not None else " ".join(str(error).split()))
        return cls(folder.absolute(), number, text, error.mount if isinstance(error, Unmounted) else None)

    @property
    def may_pass(self) -> bool:
        """Whether a later attempt may succeed: there is room again, or the disk is back."""
        return self.errno not in _LASTING

    def is_over(self, needed_bytes: int) -> bool:
        """Whether the folder takes files again, and has that much room if it had none. Writes a small file."""
        if self.mount is not None and not os.path.ismount(self.mount):
            return False
        if self.errno in _NO_ROOM and (free_bytes(self.folder) or needed_bytes) < needed_bytes:
            return False
        return probe(self.folder) is None

    def __str__(self) -> str:
        if self.errno == errno.ENOSPC:
            return f"no room in {self.folder}"
        if self.errno == errno.EDQUOT:
            return f"no room in {self.folder} ({self.reason})"
        return f"{self.folder} cannot be written to ({self.reason})"

    @property
    def free(self) -> str:
        """What is free there, in words: "40 MB"."""
        free = free_bytes(self.folder)
        return "unknown" if free is None else in_words(free)


def errno_in(text: str) -> int | None:
    """The number of an error of the system, from the text that a library written in Rust has for it."""
    found = _ERRNO_IN_TEXT.search(text)
    return int(found[1]) if found else None


def probe(folder: Path) -> OSError | None:
    """Write a small file, flush it to the disk and remove it. Returns what failed.

    Args:
        folder: where it is missing, that above it is tried.
    """
    try:
        with tempfile.TemporaryFile(prefix=".room-", dir=existing_folder(folder / "file"), buffering=0) as file:
            if file.write(bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with refusals_passed_over():
                os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def existing_folder(path: Path) -> Path:
    """The nearest folder above ``path`` that exists: those below it are made when the first file is written."""
    for folder in path.absolute().parents:
        if folder.exists() or folder.is_symlink():  # a link to nowhere cannot become a folder
            return folder
    return Path("/")


def free_bytes(folder: Path) -> int | None:
    """Bytes that a user without privileges may still write there; None where the mount does not say."""
    try:
        status = os.statvfs(existing_folder(folder / "file"))
    except OSError:
        return None
    if not status.f_blocks:  # as some mounts of object stores report it
        return None
    if status.f_files and not status.f_favail:  # no further file can be made
        return 0
    return status.f_bavail * status.f_frsize


def mount_of(folder: Path) -> Path:
    """The mount point that holds a folder, or that will hold it once it is made."""
    place = existing_folder(folder / "file").resolve()
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    return place


def refuse_unmounted(mount: Path) -> None:
    """Refuse to write below a mount point from which the disk has gone: the files would land on the disk below it, and
    vanish from view once it is back.

    Args:
        mount: as :func:`mount_of` found it before.

    Raises:
        Unmounted: it is no mount point any more.
    """
    if not os.path.ismount(mount):
        raise Unmounted(mount)


def in_words(size: float) -> str:
    """Bytes in powers of a thousand with two digits or more: 950 bytes, 4.2 kB, 40 MB, 3.0 TB."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5 or unit == "TB":
            break
    return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
