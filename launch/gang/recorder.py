"""What the engine tells on a rank, kept until the driver asks for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.progress import Progress
from launch.process.phase import PhaseKeeper

_KEPT = 10_000  # far more than a rank tells between two questions; the oldest are lost
Event = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Status:
    """Where a rank is."""

    phase: str
    idle_seconds: float  # since it last told anything
    told: int  # events until now
    events: Sequence[Event]  # the newest of them: a method of Progress and its arguments


class Recorder(Progress):
    """Written by the thread that runs the engine, read by the one that answers."""

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
        """Where the rank is, and what it has told after the first ``seen`` events."""
        with self._lock:
            new = min(self._told - seen, len(self._events))
            events = list(self._events)[len(self._events) - new :]
            return Status(self.phase, time.monotonic() - self._moved, self._told, events)

    def begin(self, phase: str) -> None:
        """Be in a phase before the engine says anything."""
        self._keeper.phase = phase
        self.moved()

    def moved(self) -> None:
        """Begin to count idle time anew, as work begins."""
        with self._lock:
            self._moved = time.monotonic()

    def video(self, index: int, count: int) -> None:
        self._tell("video", index, count)

    def note(self, line: str) -> None:
        self._tell("note", line)

    def stage(self, name: str) -> None:
        self._tell("stage", name)

    def doing(self, name: str) -> None:
        self._keeper.doing(name)
        self.moved()

    def step(self, index: int, total: int, action: str) -> None:
        self._tell("step", index, total, action)

    def done(self) -> None:
        self._tell("done")

    def _tell(self, method: str, *arguments: Any) -> None:
        getattr(self._keeper, method)(*arguments)
        with self._lock:
            self._moved = time.monotonic()
            self._events.append((method, arguments))
            self._told += 1
