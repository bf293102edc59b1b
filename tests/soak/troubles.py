"""Faults of what gangs stand on, caused from outside: the disk of the queue, its file, Ray's processes, the servers."""

import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from tests.soak.gangs import Nodes
from tests.soak.plan import Trouble
from tests.support.queue_faults import locked

_DISK = "48m"
_BLOCK = bytes(1 << 20)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own for ``folder``. Yields whether this machine lets us mount one, which takes root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=0700", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Not a byte is left on the disk of ``folder``."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for block in (_BLOCK, b"\0"):  # the last page as well
                with suppress(OSError):
                    while file.write(block):
                        pass
        yield
    finally:
        filler.unlink()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run for a while, as on a machine that swaps or is suspended."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Troubles:
    """Causes one after another, each for as long as it is planned, while gangs are killed as their own plans say."""

    def __init__(
        self,
        planned: Sequence[Trouble],
        state: Path,
        cluster: Nodes,
        servers: Callable[[], Sequence[int]],
        seed: int,
    ) -> None:
        """
        Args:
            servers: processes of gangs' servers that are alive.
            seed: of which process it is that meets one.
        """
        self.met: list[Trouble] = []
        self._planned = list(planned)
        self._state = state
        self._cluster = cluster
        self._servers = servers
        self._draw = random.Random(seed)
        self._current = ExitStack()
        self._until: float | None = None  # None between two troubles
        self._next = 0.0

    @property
    def is_done(self) -> bool:
        return not self._planned and self._until is None

    def go_on(self, now: float) -> None:
        """End the present trouble once its time is over, or cause the next one.

        Args:
            now: monotonic, in seconds.
        """
        if self._until is not None:
            if now >= self._until:
                self.end()
                self._next = now + self._draw.uniform(2, 15)
            return
        if self._planned and now >= self._next and self._cause(self._planned[0]):
            trouble = self._planned.pop(0)
            self.met.append(trouble)
            self._until = now + trouble[1]

    def end(self) -> None:
        """End the present trouble, if there is one."""
        self._current.close()
        self._until = None

    def _cause(self, trouble: Trouble) -> bool:
        """Returns whether there was what it needs."""
        match trouble[0]:
            case "full disk":
                self._current.enter_context(full_disk(self._state))
            case "locked queue":
                try:
                    self._current.enter_context(locked(self._state))
                except sqlite3.OperationalError:
                    return False  # somebody writes just now
            case "stopped driver":
                if not (servers := self._servers()):
                    return False
                self._current.enter_context(stopped(self._draw.choice(servers)))
            case "raylet":
                raylets = self._cluster.raylets()
                if not raylets:
                    return False
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(self._draw.choice(raylets)).kill()
            case "head":
                self._cluster.lose_head()
                self._current.callback(self._cluster.start)
        return True
