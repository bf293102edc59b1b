"""The phase that a rank is in, for error lines. It is also written to a file, where the launcher finds the phase of a
rank that was killed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.progress import Progress

_WIDTH = 64


class PhaseKeeper(Progress):
    """Passes progress on to a display and remembers the phase, such as load, denoise step 3 or decode of video 2."""

    def __init__(self, display: Progress) -> None:
        self.phase = "start"
        self.events = 0
        """Signs of progress until now."""
        self.has_watch = False
        """Whether a thread looks whether it gets on."""
        self._display = display
        self._suffix = ""
        file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        self._descriptor: int | None = None
        if file:
            with suppress(OSError):  # of a full disk for temporary files, which the video does not need
                # one open file, overwritten in place: a write a step costs microseconds
                self._descriptor = os.open(Path(file).with_name("phase"), os.O_CREAT | os.O_WRONLY, 0o600)

    @property
    def is_watched(self) -> bool:
        return self.has_watch

    def video(self, index: int, count: int) -> None:
        self.events += 1
        self._suffix = f" of video {index}" if count > 1 else ""
        self._display.video(index, count)

    def note(self, line: str) -> None:
        self.events += 1
        self._display.note(line)

    def stage(self, name: str) -> None:
        self.doing(name)
        self._display.stage(name)

    def loading(self, part: str) -> None:
        self.events += 1
        self._display.loading(part)

    def doing(self, name: str) -> None:
        self.events += 1
        self._enter("denoise step 0" if name == "denoise" else name)

    def step(self, index: int, total: int, action: str) -> None:
        self.events += 1
        self._enter(f"denoise step {min(index + 1, total - 1)}")
        self._display.step(index, total, action)

    def saved(self, seconds: float) -> None:
        self.events += 1
        self._display.saved(seconds)

    def decoded(self, frames: int, total: int) -> None:
        self.events += 1
        self._display.decoded(frames, total)

    def alive(self) -> None:
        self.events += 1
        self._display.alive()

    def done(self) -> None:
        self.events += 1
        self._suffix = ""
        self._enter("end")
        self._display.done()

    def _enter(self, phase: str) -> None:
        self.phase = phase + self._suffix
        if self._descriptor is not None:
            with suppress(OSError):
                os.pwrite(self._descriptor, self.phase.ljust(_WIDTH).encode(), 0)
