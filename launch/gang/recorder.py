"""The progress of the engine on one rank, recorded until the driver asks for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.progress import Progress
from launch.process.phase import PhaseKeeper

_KEPT = 10_000  # far more events than a rank has between two questions; the oldest are dropped
Event = tuple[str, tuple[Any, ...]]
"""A method of :class:`engine.progress.Progress` and its arguments."""


@dataclass(frozen=True)
class Status:
    """What a rank reports to the driver."""

    phase: str
    """As of :class:`launch.process.phase.PhaseKeeper`."""
    idle_seconds: float
    """Since its last event."""
    told: int
    """Number of events until now."""
    events: Sequence[Event]
    """The newest of them."""


class Recorder(Progress):
    """Written by the thread that runs the engine, read by the thread that answers the driver."""

    def __init__(self) -> None:
        self._keeper = PhaseKeeper(Progress())
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._told = 0
        self._moved = time.monotonic()

    @property
    def phase(self) -> str:
        return self._keeper.phase

    def status(self, seen: int) -> Status:
        """The status of the rank, with the events after the first ``seen``."""
        with self._lock:
            new = min(self._told - seen, len(self._events))
            events = list(self._events)[len(self._events) - new :]
            return Status(self.phase, time.monotonic() - self._moved, self._told, events)

    @property
    def is_watched(self) -> bool:  # by the driver
        return True

    def begin(self, phase: str) -> None:
        """Enter a phase before the engine reports anything."""
        self._keeper.phase = phase
        self.moved()

    def moved(self) -> None:
        """Set the idle time to zero, since work begins."""
        with self._lock:
            self._moved = time.monotonic()

    def video(self, index: int, count: int) -> None:
        self._tell("video", index, count)

    def note(self, line: str) -> None:
        self._tell("note", line)

    def stage(self, name: str) -> None:
        self._tell("stage", name)

    def loading(self, part: str) -> None:
        self._tell("loading", part)

    def decoded(self, frames: int, total: int) -> None:
        self._tell("decoded", frames, total)

    def doing(self, name: str) -> None:
        self._keeper.doing(name)
        self.moved()

    def step(self, index: int, total: int, action: str) -> None:
        self._tell("step", index, total, action)

    def saved(self, seconds: float) -> None:
        self._tell("saved", seconds)

    def alive(self) -> None:
        self.moved()

    def done(self) -> None:
        self._tell("done")

    def _tell(self, method: str, *arguments: Any) -> None:
        getattr(self._keeper, method)(*arguments)
        with self._lock:
            self._moved = time.monotonic()
            self._events.append((method, arguments))
            self._told += 1
