"""The progress of a run where nobody watches: lines with the time of day, for a pipe, a file or a plain terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from rich.text import Text

from engine.progress import Progress
from launch.process.stamps import timed
from launch.screens.console import make_console
from launch.screens.job_words import duration
from launch.screens.stages import stage_in_words

SILENCE_SECONDS = 30.0
"""The longest time without a line."""
_QUIET_SECONDS = 5.0
"""Decoding that is quicker needs no line of its own."""


class ProgressLines(Progress):
    """Writes a line for each stage, for each tenth of the denoise steps, and whenever half a minute has passed. Of a
    video that a longer work announces in words of its own, as a bench does, there is no line for the tenths."""

    def __init__(
        self,
        stream: IO[str],
        ranks: int | None = None,
        machines: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            ranks: the world size, said at once; None says nothing.
            machines: that they are on, if that is known.
            clock: seconds.
        """
        self._console = make_console(stream)
        self._clock = clock
        self._lock = threading.RLock()  # the thread below writes too
        self._prefix = ""
        self._label = stage_in_words("start")
        self._says_tenths = False
        self._since = self._said_at = self._stepped_at = clock()
        self._done = self._total = self._skipped = self._frames = self._num_frames = 0
        # number of steps done after the first step of this run, and when that was: it is slower than the others
        self._first: tuple[int, float] | None = None
        if ranks is not None:
            where = f" on {machines} machines" if machines and machines > 1 else ""
            self._print(f"{ranks} rank{'s' if ranks > 1 else ''}{where}")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._break_silence, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write no more lines."""
        self._closed.set()
        self._thread.join()

    def video(self, index: int, count: int) -> None:
        self._prefix = f"video {index} (of {count}): " if count > 1 else ""

    def note(self, line: str) -> None:
        with self._lock:
            self._print(line)

    def stage(self, name: str) -> None:
        with self._lock:
            self._begin(name)
            self._print(self._label)

    def loading(self, part: str) -> None:
        with self._lock:
            self._print(f"{self._label}: {part}")

    def step(self, index: int, total: int, action: str) -> None:
        with self._lock:
            self._skipped += action == "skip"
            before, self._done, self._total = self._done or index, index + 1, total
            self._stepped_at = self._clock()
            self._first = self._first or (self._done, self._stepped_at)
            is_due = self._says_tenths and 10 * self._done // total > 10 * before // total
            if is_due or self._is_silent(SILENCE_SECONDS):
                self._print(self._state())

    def decoded(self, frames: int, total: int) -> None:
        with self._lock:
            before, self._frames, self._num_frames = self._frames, frames, total
            if 10 * frames // total > 10 * before // total and self._is_silent(_QUIET_SECONDS):
                self._print(self._state())

    def done(self) -> None:
        self._prefix = ""

    def tick(self) -> None:
        """Write where the run is, if half a minute has passed without a line."""
        with self._lock:
            if self._is_silent(SILENCE_SECONDS):
                self._print(self._state())

    def _begin(self, stage: str) -> None:
        self._label = self._prefix + stage_in_words(stage)
        self._says_tenths = stage == "denoise"
        self._since = self._clock()
        self._done = self._total = self._skipped = self._frames = self._num_frames = 0
        self._first = None

    def _state(self) -> str:
        """Where the run is, in words."""
        if self._total:
            left = self._seconds_left()
            end = f", {duration(left)} left" if left is not None else ""
            return f"{self._label}: step {self._done} of {self._total}, {self._skipped} skipped{end}"
        if self._num_frames:
            return f"{self._label}: frame {self._frames} of {self._num_frames}"
        return f"{self._label}: {duration(self._clock() - self._since)} so far"

    def _seconds_left(self) -> float | None:
        """Of denoising, by the steps of this run; None before the second one."""
        if self._first is None or self._done <= self._first[0]:
            return None
        done, since = self._first
        left = (self._stepped_at - since) / (self._done - done) * (self._total - self._done)
        return max(0.0, left - (self._clock() - self._stepped_at))

    def _is_silent(self, seconds: float) -> bool:
        return self._clock() - self._said_at >= seconds

    def _print(self, line: str) -> None:
        self._said_at = self._clock()
        with suppress(OSError):  # stderr may be a file on a full disk, which must not end the run
            self._console.print(Text(timed(line)), highlight=False)

    def _break_silence(self) -> None:
        while not self._closed.wait(1.0):
            self.tick()
