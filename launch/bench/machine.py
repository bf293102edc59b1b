"""What of a measured time is the machine's: other processes that had the processor, and how fast it ran just then.

Two runs of one build differ by what else the machine did. These numbers are measured beside each video, so that a
comparison of two runs can tell the build's share from the machine's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.progress import Progress

_REPEATS = 20
_SIZE = 384  # float32: 0.1 GFLOP; three matrices fit in the second-level cache
_GPU_SIZE = 4096
_SCHEDULED = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Moment:
    """Clocks of this thread, in seconds; only differences mean something."""

    wall: float
    busy: float
    """On a processor."""
    queued: float
    """Ready to run while other threads had the processors; 0 where the system does not tell."""

    @classmethod
    def now(cls) -> Moment:
        """From Linux's ``schedstat``: nanoseconds on a processor, nanoseconds in its queue."""
        try:
            busy, queued, _ = _SCHEDULED.read_text(encoding="ascii").split()
            return cls(time.perf_counter(), int(busy) / 1e9, int(queued) / 1e9)
        except (OSError, ValueError):
            return cls(time.perf_counter(), time.thread_time(), 0.0)

    def queued_since(self, earlier: Moment) -> float:
        return self.queued - earlier.queued

    def idle_since(self, earlier: Moment) -> float:
        """Seconds that the thread was neither on a processor nor in its queue: asleep, or waiting for a disk, a device
        or another rank."""
        return max(0.0, self.wall - earlier.wall - (self.busy - earlier.busy) - self.queued_since(earlier))


@dataclass
class Occupancy(Progress):
    """What this thread did besides computing while it made one video, by stage; it is told of the stages as their
    display is."""

    queued: dict[str, float] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    step_idle: list[float] = field(default_factory=list)
    _stage: str = ""
    _since: Moment = field(default_factory=Moment.now)
    _step_since: Moment = field(default_factory=Moment.now)

    def doing(self, name: str) -> None:
        now = self._count()
        self._stage = name
        if name == "denoise":
            self._step_since = now

    def step(self, index: int, total: int, action: str) -> None:
        now = Moment.now()
        self.step_idle.append(now.idle_since(self._step_since))
        self._step_since = now

    def end(self) -> None:
        """The video is finished; to be called once."""
        self._count()

    def _count(self) -> Moment:
        now = Moment.now()
        for stage in (self._stage, "total"):
            self.queued[stage] = self.queued.get(stage, 0.0) + now.queued_since(self._since)
            self.idle[stage] = self.idle.get(stage, 0.0) + now.idle_since(self._since)
        self._since = now
        return now


def queued_seconds(ranks: Sequence[Occupancy], stages: Sequence[str]) -> dict[str, float]:
    """By stage, the largest over the ranks of a replica."""
    return {stage: max(rank.queued.get(stage, 0.0) for rank in ranks) for stage in stages}


def idle_seconds(ranks: Sequence[Occupancy], stages: Sequence[str]) -> dict[str, float]:
    """By stage, the least over the ranks of a replica: a rank that waits for another one makes nothing slow.

    Of denoising it is the sum over steps of the least in each, for ranks are late by turns. The total is the sum of
    the stages.
    """
    least = {stage: min(rank.idle.get(stage, 0.0) for rank in ranks) for stage in stages if stage != "total"}
    if "denoise" in least:
        least["denoise"] = sum(map(min, zip(*(rank.step_idle for rank in ranks), strict=True)))
    return least | {"total": sum(least.values())} if "total" in stages else least


class ReferenceWork:
    """A fixed piece of work, the time of which says how fast the machine runs at present."""

    def __init__(self, device: torch.device) -> None:
        """Makes its inputs on ``device``, some megabytes."""
        self._device = device
        size = _GPU_SIZE if device.type == "cuda" else _SIZE
        self._matrix = torch.ones(size, size, device=device)

    def seconds(self) -> float:
        """Median seconds of a product of two matrices, float32, without the time that other processes had the
        processor; it takes some 0.03 s on a CPU.
        """
        taken = []
        for _ in range(_REPEATS):
            before = Moment.now()
            torch.mm(self._matrix, self._matrix)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            after = Moment.now()
            taken.append(after.wall - before.wall - after.queued_since(before))
        return sorted(taken)[_REPEATS // 2]
