"""The driver's side of mirrors: what an earlier run has left is sent, and what ranks write is fetched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ray.exceptions import RayError

from engine.storage.files import StagedFiles
from launch.gang.mirror import PIECE_BYTES, Listing, Stamp, listing

_LOOK_SECONDS = 1.0
_JOIN_SECONDS = 5.0

Answer = Callable[[Any], Any]
"""Waits for what an actor was asked; raises if it does not come."""


class Fetching:
    """Keeps the driver's files as those of the mirrors are. To be ended with :meth:`stop`."""

    def __init__(self, workers: Mapping[int, Any], folder: Path, owned: Sequence[Path], answer: Answer) -> None:
        """
        Args:
            workers: the actors that have a mirror, by rank.
            folder: of the driver, in which the files of all mirrors belong.
            owned: files and folders there that the work writes; nothing else is read, written or removed.
            answer: waits for an answer of an actor.
        """
        self._workers = workers
        self._folder = folder
        self._owned = owned
        self._answer = answer
        self._seen: dict[int, Listing] = {rank: {} for rank in workers}
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="fetching", daemon=True)

    def send(self, note: Callable[[str], None]) -> None:
        """Send what an earlier run has left to the first rank, if it has a mirror, and begin to fetch.

        Args:
            note: takes a line if there is something to send.
        """
        if (first := self._workers.get(0)) is not None:
            found = listing(self._folder, self._owned)
            if found:
                size = sum(size for _, size in found.values())
                note(f"sending {len(found)} files of an earlier run, {size / 1e6:.1f} MB, to the first rank's node")
            for name in found:
                self._send(first, name)
            self._seen[0] = self._answer(first.listing.remote())
        if self._workers:
            self._thread.start()

    def check(self) -> None:
        """Raise the error for which files could not be fetched, if there was one."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Fetch what there still is, once the ranks have done their work.

        Raises:
            OSError: a file cannot be written.
        """
        self.stop()
        self.check()
        self.look()

    def stop(self) -> None:
        """Fetch no more; in bounded time."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def look(self) -> None:
        """Fetch what was written since the last look, and remove what was removed."""
        for rank, worker in self._workers.items():
            now: Listing = self._answer(worker.listing.remote())
            before = self._seen[rank]
            for name, stamp in now.items():
                if before.get(name) != stamp:
                    self._fetch(worker, name, stamp)
            for name in before.keys() - now.keys():
                self._remove(name)
            self._seen[rank] = now

    def _look_again(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                self.look()
            except RayError:
                continue  # a rank died, which the monitor says better
            except Exception as error:
                self._error = error
                return

    def _send(self, worker: Any, name: str) -> None:
        offset = 0
        with (self._folder / name).open("rb") as file:
            while (piece := file.read(PIECE_BYTES)) or not offset:
                self._answer(worker.take.remote(name, offset, piece))
                offset += max(1, len(piece))

    def _fetch(self, worker: Any, name: str, stamp: Stamp) -> None:
        """Fetch a file; one that was replaced meanwhile has another stamp, by which the next look finds it."""
        path, size = self._path(name), stamp[1]
        if not size:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            return
        with suppress(_Replaced), StagedFiles() as files, files.stage(path).open("wb") as file:
            while file.tell() < size:
                piece = self._answer(worker.read.remote(name, stamp, file.tell()))
                if not piece:
                    raise _Replaced
                file.write(piece)

    def _remove(self, name: str) -> None:
        path = self._path(name)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for parent in path.parents:
                if parent == self._folder:
                    break
                parent.rmdir()

    def _path(self, name: str) -> Path:
        path = self._folder / PurePosixPath(name)
        inside = any(path == each or path.is_relative_to(each) for each in self._owned)
        if not inside or ".." in path.parts:
            raise OSError(f"a rank has written {name!r}, which is none of the files of this run")
        return path


class _Replaced(Exception):
    """A file is another one than when it was listed."""
