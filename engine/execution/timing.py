"""Clocks that count the device's work."""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


class StageClock:
    """Seconds by stage, with the work of the device; one stage at a time."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._cuda = device.type == "cuda"
        self._stage = ""
        self._since = time.perf_counter()

    def switch(self, stage: str) -> str:
        """Count the time from now on for ``stage``, "" for none. Waits for the device. Returns the stage before."""
        if self._cuda:
            torch.cuda.synchronize()
        before, now = self._stage, time.perf_counter()
        self.seconds[before] += now - self._since
        self._stage, self._since = stage, now
        return before


class Stopwatch:
    """Seconds by key. On CUDA the time is measured between two events on the stream, so that no lap waits for the
    device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[Hashable, float] = defaultdict(float)
        self._events: list[tuple[Hashable, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def lap(self, key: Hashable) -> Iterator[None]:
        """Add the time spent inside to ``key``."""
        if self._cuda:
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            stop.record()
            self._events.append((key, start, stop))
        else:
            started = time.perf_counter()
            yield
            self._seconds[key] += time.perf_counter() - started

    def seconds(self, wait: bool = True) -> dict[Any, float]:
        """All sums so far.

        Args:
            wait: wait for the device; else laps that it has not finished are left out.
        """
        if self._events and wait:
            torch.cuda.synchronize()
        self.collect()
        return dict(self._seconds)

    def collect(self) -> None:
        """Add up the laps that the device has finished, and free their events. Does not wait."""
        under_way = []
        for key, start, stop in self._events:
            if stop.query():
                self._seconds[key] += start.elapsed_time(stop) / 1000
            else:
                under_way.append((key, start, stop))
        self._events = under_way

    def restore(self, seconds: Mapping[Any, float]) -> None:
        """Add the :meth:`seconds` of an earlier run."""
        self._seconds.update(seconds)


class StepClock:
    """Seconds of each denoise step, and of the collectives in it by kind. On CUDA the time is the device's, between
    events on the stream that is current, so that nothing waits for the device that would not without the clock."""

    def __init__(self, device: torch.device) -> None:
        self._steps = Stopwatch(device)
        self._collectives = Stopwatch(device)
        self._step: int | None = None

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """This denoise step runs inside, with all that belongs to it."""
        self._step = index
        with self._steps.lap(index):
            yield
        self._step = None
        self._collectives.collect()  # a long request would else hold thousands of events

    def lap(self, kind: str) -> AbstractContextManager[None]:
        """A collective of this kind runs inside."""
        return self._collectives.lap((self._step, kind))

    def step_seconds(self) -> dict[int, float]:
        """By index of the step. Waits for the device."""
        return self._steps.seconds()

    def collective_seconds(self) -> dict[tuple[int | None, str], float]:
        """By step and kind; the step is None outside of the denoise steps. Waits for the device."""
        return self._collectives.seconds()
