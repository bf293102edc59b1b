"""The folder of a bench: its results, and the video that is under way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidInput
from engine.storage.files import StagedFiles, try_lock
from engine.storage.private import create_private_file
from launch.bench.reading import JSON_FILE

TABLE_FILE = "bench.md"


@dataclass(frozen=True)
class BenchFolder:
    """Where `--output` points. The first rank writes the results, the first rank of each replica its videos."""

    path: Path

    def refuse_if_finished(self) -> None:
        """
        Raises:
            InvalidInput: there are results already, which are not replaced.
        """
        if os.path.lexists(self.path / JSON_FILE):
            raise InvalidInput(
                f"--output is {str(self.path)!r}, which holds a {JSON_FILE} already: give another folder, or remove it."
            )

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder against other runs until the block ends or the process does; what an earlier one that was
        killed has left of its videos is removed, and at the end what this one has.

        Raises:
            InvalidInput: another run is at work here.
            OSError: the folder cannot be written.
        """
        with ExitStack() as closing:
            self._scratch.mkdir(parents=True, exist_ok=True)
            lock = self._scratch / "lock"
            create_private_file(lock)
            opened = closing.enter_context(lock.open("r+b"))
            with suppress(OSError):  # a file system without locks
                if not try_lock(opened.fileno()):
                    raise InvalidInput(f"--output is {str(self.path)!r}, where another bench is at work: wait for it.")
            for file in self._scratch.iterdir():
                if file.is_dir() and not file.is_symlink():
                    shutil.rmtree(file, ignore_errors=True)
                elif file != lock:
                    file.unlink(missing_ok=True)
            closing.callback(shutil.rmtree, self._scratch, ignore_errors=True)
            yield

    def video(self, name: str, keep: bool) -> Path:
        """Where a video is written.

        Args:
            name: without suffix. keep: it stays; else it is removed once it is measured.
        """
        return (self.path / "videos" if keep else self._scratch) / f"{name}.mp4"

    def scratch(self, name: str) -> Path:
        """Where a file or a folder of that name lies until the run ends."""
        return self._scratch / name

    def write(self, texts: Mapping[str, str]) -> None:
        """Write text files by name, all or none.

        Raises:
            OSError: the disk is full, or fails.
        """
        with StagedFiles() as files:
            for name, text in texts.items():
                files.stage(self.path / name).write_text(text, encoding="utf-8")

    @property
    def _scratch(self) -> Path:
        return self.path / ".scratch"
