"""Output files that are written all together and whole, or not at all."""

import errno
import fcntl
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from engine.storage.disks import errno_in, refusals_passed_over
from engine.storage.private import make_private

if TYPE_CHECKING:
    from torch import Tensor

# a mount without renaming, and a file that is a mount point itself, as containers have it
_CANNOT_RENAME = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EBUSY}


class StagedFiles:
    """A context manager: files are written under temporary names, and renamed when the block ends without an error.

    All of them are synced to the disk before the first is renamed, so after a full disk or another error the earlier
    files are still there, and no temporary ones. Temporary files of a killed process are removed by the next process
    that writes the same file.
    """

    def __init__(self) -> None:
        self._temporaries: dict[Path, Path] = {}
        self._private: set[Path] = set()
        self._locked: list[int] = []  # descriptors whose locks say that the temporary files are in use

    def stage(self, path: Path, private: bool = False) -> Path:
        """Create an empty temporary file beside ``path`` and return its path; missing folders are created.
        An output that is a symbolic link is written through.

        Args:
            private: the file is none of the user's results, and gets the mode of :mod:`engine.storage.private`.

        Raises:
            OSError: the folder cannot be written to.
        """
        if path.is_symlink():
            path = Path(os.path.realpath(path))  # a rename would replace the link, not the file that it names
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        if private:
            self._private.add(path)
        while True:
            temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
            # made with the permissions that it shall have, for not every mount lets them be changed
            mode = 0o600 if private else 0o666
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            self._locked.append(descriptor)
            self._temporaries[path] = temporary
            with suppress(OSError):  # a file system without locks
                try_lock(descriptor)
            if temporary.exists():  # else another process removed it as abandoned before it was locked
                return temporary

    def redirect(self, path: Path, to: Path) -> None:
        """Give a file that was staged another name in the end.

        Args:
            to: in the same folder.
        """
        self._temporaries[to] = self._temporaries.pop(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.commit()
        finally:
            for temporary in self._temporaries.values():
                with suppress(OSError):  # of a disk that cannot be written any more
                    temporary.unlink(missing_ok=True)
            for descriptor in self._locked:
                with suppress(OSError):  # a network file system reports here what it could not write
                    os.close(descriptor)
            self._temporaries, self._locked, self._private = {}, [], set()

    def commit(self) -> None:
        """Flush all files to the disk and give them their names, before the block ends. To be called once.

        Raises:
            OSError: one cannot be written; those after it keep what was there before.
        """
        for path, temporary in self._temporaries.items():
            if path in self._private:
                make_private(temporary)
            sync(temporary)
            refuse_empty(temporary)
        for path, temporary in self._temporaries.items():
            take_place(temporary, path)
        for folder in {path.parent for path in self._temporaries}:
            sync(folder)  # else a power cut may undo the renames
        for path in self._temporaries:
            refuse_empty(path)
        self._temporaries = {}


def refuse_empty(path: Path) -> None:
    """Refuse a file that was written and is empty or not there: a disk was unplugged meanwhile, and plugged in again,
    and the content went to the disk below it.

    Raises:
        OSError: it is such a file.
    """
    if not path.stat().st_size:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files for ``path`` whose writers have died: the system releases the locks of a dead process."""
    name = re.compile(re.escape(f".{path.stem}-") + r"[a-z0-9_]{8}" + re.escape(path.suffix))
    with suppress(OSError):  # a folder that may be written to and not listed
        for file in path.parent.iterdir():
            if name.fullmatch(file.name):
                with suppress(OSError), file.open("r+b") as opened:
                    if try_lock(opened.fileno()):
                        file.unlink()


def take_place(temporary: Path, path: Path) -> None:
    """Rename a file, replacing what has the name. Where the mount cannot rename it is copied: whoever looks meanwhile
    sees a part of it.

    Raises:
        OSError: it cannot be written.
    """
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        shutil.copyfile(temporary, path)
        sync(path)
        temporary.unlink(missing_ok=True)


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock of an open file, without waiting. The lock lasts until the file is closed, which the
    system does for a process that is killed.

    Args:
        descriptor: open for writing; a network file system locks no file that is open for reading alone.

    Returns:
        False if another process holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def save_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors on the CPU as safetensors.

    Raises:
        OSError: the file cannot be written. Safetensors has an error of its own for that, which is no OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    except SafetensorError as error:
        number = errno_in(str(error))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def numbered(output: Path, count: int) -> list[Path]:
    """One path for each of ``count`` videos: "out.mp4" if there is one, else out-0.mp4, out-1.mp4 and so on."""
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{i}") for i in range(count)]


def next_free(*paths: Path) -> tuple[Path, ...]:
    """The paths with the first number behind their names under which none of them exists: out-2.mp4 and out-2.json."""
    for number in itertools.count(2):
        free = tuple(path.with_stem(f"{path.stem}-{number}") for path in paths)
        if not any(os.path.lexists(path) for path in free):
            return free
    raise AssertionError("count has no end")


def without_parents(path: Path) -> Path:
    """The path without ".." behind a folder, as the system reads it: ".." behind a symbolic link is the parent of the
    folder that the link names. Behind a folder that does not exist yet, it takes that folder away."""
    parts = path.parts
    behind = [index for index, part in enumerate(parts) if part == ".." and any(each != ".." for each in parts[:index])]
    if not behind:
        return path
    try:
        head, tail = Path(*parts[: behind[-1] + 1]), parts[behind[-1] + 1 :]
        plain, real = os.path.normpath(head), os.path.realpath(head)
        return Path(plain if os.path.realpath(plain) == real else real, *tail)
    except (OSError, ValueError):
        return path  # it cannot be used, which is said where it is checked


def absolute(path: Path) -> Path:
    """The absolute path without "..", as the system reads it (:func:`without_parents`), from the working folder."""
    return Path(os.path.normpath(without_parents(Path.cwd() / path)))


def sync(path: Path) -> None:
    """Flush a file or folder to the disk (fsync), so that a power cut does not undo its changes. Passed over where the
    mount refuses to, which many do for folders.

    Raises:
        OSError: the disk is full, or fails.
    """
    with refusals_passed_over():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
