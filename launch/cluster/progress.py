"""The progress of a server's gang, for its log and for the record of the running job."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from engine.progress import Progress
from launch.queue.records import UNKNOWN, JobProgress, timeline_of

_STEPS = 16  # of late
_UNKNOWN_STEP_SECONDS = 10.0
_TO_HEAR_SECONDS = 5.0  # until all ranks hear of a wish, and the driver of their pause


class GangProgress(Progress):
    """Told what rank 0 of one gang reports, while it loads and while it works."""

    def __init__(self, note: Callable[[str], None], stage: Callable[[str], None]) -> None:
        """
        Args:
            note: called with each line of :meth:`note`.
            stage: called with the name of each stage that begins.
        """
        self._show_note = note
        self._show_stage = stage
        self._saved_seconds = 0.0  # of the slowest checkpoint of this gang's jobs
        self.begin_job(None)

    def begin_job(self, before: JobProgress | None) -> None:
        """Begin to record another job.

        Args:
            before: the progress of an earlier attempt at this job.
        """
        self._before: Sequence[str] = before.actions if before else ()
        self._phase = "start"
        self._done = self._total = 0
        self._actions: list[str] = []
        # number of steps done after the first step of this run, and when that was, in monotonic seconds
        self._begun: tuple[int, float] | None = None
        self._last = 0.0
        self._step_seconds: deque[float] = deque(maxlen=_STEPS)

    @property
    def seconds_to_pause(self) -> float:
        """How long the ranks may need from being asked to pause until they have done so: for the step that is under
        way and for a checkpoint, both as slow as the slowest of late. Of a job without a step a guess."""
        now = time.monotonic()
        step = max((*self._step_seconds, now - self._last)) if self._step_seconds else _UNKNOWN_STEP_SECONDS
        return 2 * step + 1.5 * self._saved_seconds + _TO_HEAR_SECONDS

    @property
    def job(self) -> JobProgress:
        """How far the job is."""
        return JobProgress(self._phase, self._done, self._total, timeline_of(self._actions), self._seconds_left())

    def note(self, line: str) -> None:
        self._show_note(line)

    def stage(self, name: str) -> None:
        self._phase, self._begun = name, None
        self._show_stage(name)

    def loading(self, part: str) -> None:
        self._show_note(f"loading weights: {part}")

    def step(self, index: int, total: int, action: str) -> None:
        known = self._actions if len(self._actions) >= index else self._before  # resumed from a checkpoint
        if len(known) < index:  # of steps that the ranks had no time to report
            known = max(self._actions, self._before, key=len)
        self._actions = [*known[:index], *[UNKNOWN] * (index - len(known)), action]
        now = time.monotonic()
        if self._begun is not None:
            self._step_seconds.append(now - self._last)
        self._done, self._total, self._last = index + 1, total, now
        self._begun = self._begun or (self._done, self._last)

    def saved(self, seconds: float) -> None:
        self._saved_seconds = max(seconds, 0.8 * self._saved_seconds)  # what was slow once is forgotten in time

    def _seconds_left(self) -> float | None:
        """Of denoising, estimated from the steps of this run after its first one, which is slower than the others."""
        if self._begun is None or self._done <= self._begun[0]:
            return None
        done, since = self._begun
        return (self._last - since) / (self._done - done) * (self._total - self._done)
