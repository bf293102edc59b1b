"""A small disk in memory that can be filled, made read-only, unplugged and slowed while others write to it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("filled", "read-only", "unplugged", "slowed")
_SLOW_MILLISECONDS = 150
_BUSY_SECONDS = 1.0


class Disk:
    """Mounted at ``path``. Its content is also mounted beside it, which brings it back after it was unplugged."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        """
        Args:
            folder: for mount points, and what belongs to the disk.
        """
        self.path = folder / "disk"
        self._kept = folder / "kept"
        self._flag = folder / "slow"
        self._library = folder / "slow_disk.so"
        self._megabytes = megabytes
        self._fault: str | None = None
        for mount in (self.path, self._kept):
            mount.mkdir(parents=True)

    def plug_in(self) -> None:
        """Mount it, empty.

        Raises:
            subprocess.CalledProcessError: mounting is not allowed here.
        """
        _run("mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", str(self._kept))
        _run("mount", "--bind", str(self._kept), str(self.path))

    @property
    def environment(self) -> dict[str, str]:
        """For processes whose writes are slowed with the disk."""
        if not self._library.exists():
            source = Path(__file__).with_name("slow_disk.c")
            _run("gcc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source), "-ldl")
        return {
            "LD_PRELOAD": str(self._library),
            "LOCKSTEP_SLOW_FOLDER": str(self.path),
            "LOCKSTEP_SLOW_WHILE": str(self._flag),
            "LOCKSTEP_SLOW_MILLISECONDS": str(_SLOW_MILLISECONDS),
        }

    def strike(self, kind: str) -> str:
        """Let the disk fail. Returns the kind: a disk cannot be made read-only while a file there is open for writing,
        and is unplugged then."""
        if kind == "read-only" and not self._make_read_only():
            kind = "unplugged"
        if kind == "filled":
            self._fill()
        elif kind == "unplugged":
            _run("umount", "--lazy", str(self.path))
        elif kind == "slowed":
            self._flag.touch()
        self._fault = kind
        return kind

    def heal(self) -> None:
        """End the fault, if there is one."""
        kind, self._fault = self._fault, None
        if kind == "filled":
            (self._kept / "fill").unlink()
        elif kind == "read-only":
            _run("mount", "-o", "remount,rw", str(self._kept))
        elif kind == "unplugged":
            _run("mount", "--bind", str(self._kept), str(self.path))
        elif kind == "slowed":
            self._flag.unlink()

    def remove(self) -> None:
        """Unmount it for good."""
        for mount in (self.path, self._kept):
            subprocess.run(["umount", "--lazy", str(mount)], capture_output=True)

    def _fill(self) -> None:
        with (self._kept / "fill").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    def _make_read_only(self) -> bool:
        deadline = time.monotonic() + _BUSY_SECONDS
        while time.monotonic() < deadline:
            if not subprocess.run(["mount", "-o", "remount,ro", str(self._kept)], capture_output=True).returncode:
                return True
            time.sleep(0.05)
        return False


@contextmanager
def small_disk(folder: Path, megabytes: int = 8) -> Iterator[Disk]:
    """A disk for a ``with`` block."""
    disk = Disk(folder, megabytes)
    disk.plug_in()
    try:
        yield disk
    finally:
        disk.remove()


def can_mount() -> bool:
    """Whether this process may mount; where it may not, perhaps ``unshare --map-root-user --mount`` lets it."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
