"""What of a measured time is the machine's: other processes that had the processor, and how fast it ran just then.

Two runs of one build differ by what else the machine did. These numbers are measured beside each video, so that a
comparison of two runs can tell the build's share from the machine's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from engine.progress import Progress
from launch.process.scheduled import scheduled_seconds

_REPEATS = 40


@dataclass(frozen=True)
class Moment:
    """Clocks of this thread, in seconds; only differences mean something."""

    wall: float
    busy: float
    """On a processor."""
    queued: float
    """Ready to run while other threads had the processors; 0 where the system does not tell."""
    is_known: bool = True
    """Whether the system tells."""

    @classmethod
    def now(cls) -> Moment:
        """The queue is the scheduler's. Its time on a processor is not taken, which moves on with ticks of 4 ms."""
        told = scheduled_seconds()
        return cls(time.perf_counter(), time.thread_time(), told[1] if told else 0.0, is_known=told is not None)

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

    @property
    def is_known(self) -> bool:
        """Whether the system tells waiting for a processor from other waits."""
        return self._since.is_known

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
    """By stage, the largest over the ranks of a replica; empty where one does not know."""
    if not all(rank.is_known for rank in ranks):
        return {}
    return {stage: max(rank.queued.get(stage, 0.0) for rank in ranks) for stage in stages}


def idle_seconds(ranks: Sequence[Occupancy], stages: Sequence[str]) -> dict[str, float]:
    """By stage, the least over the ranks of a replica: a rank that waits for another one makes nothing slow.

    Of denoising it is the sum over steps of the least in each, for ranks are late by turns. The total is the sum of
    the stages. Empty where a rank does not know.
    """
    if not all(rank.is_known for rank in ranks):
        return {}
    least = {stage: min(rank.idle.get(stage, 0.0) for rank in ranks) for stage in stages if stage != "total"}
    if "denoise" in least:
        least["denoise"] = sum(step_idle_seconds(ranks))
    return least | {"total": sum(least.values())} if "total" in stages else least


def step_idle_seconds(ranks: Sequence[Occupancy]) -> list[float]:
    """By denoise step, the least over the ranks of a replica. Empty where a rank does not know."""
    if not all(rank.is_known for rank in ranks):
        return []
    return list(map(min, zip(*(rank.step_idle for rank in ranks), strict=True)))


class ReferenceWork:
    """A fixed piece of work, the time of which says how fast the machine runs at present: a small transformer block,
    for what slows a matrix product down slows other kernels down by another factor."""

    def __init__(self, device: torch.device) -> None:
        """Makes its inputs on ``device``, some megabytes, from a generator of its own."""
        random = torch.Generator().manual_seed(0)
        tokens, self._width = (4096, 1024) if device.type == "cuda" else (320, 192)
        self._device = device
        self._inputs = torch.randn(1, tokens, self._width, generator=random).to(device)
        shapes = ((3, 1), (1, 1), (4, 1), (1, 4))  # of the projections, in widths
        self._weights = [
            torch.randn(rows * self._width, columns * self._width, generator=random).to(device) * 0.05
            for rows, columns in shapes
        ]

    @torch.inference_mode()
    def seconds(self) -> float:
        """Median seconds of one block in float32, without the time that other processes had the processor; some 0.1 s
        of a CPU go into it."""
        taken = []
        for _ in range(_REPEATS):
            before = Moment.now()
            self._block()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            after = Moment.now()
            taken.append(after.wall - before.wall - after.queued_since(before))
        return sorted(taken)[_REPEATS // 2]

    def _block(self) -> torch.Tensor:
        joint, out, up, down = self._weights
        hidden = functional.layer_norm(self._inputs, (self._width,))
        query, key, value = functional.linear(hidden, joint).unflatten(2, (3, -1, 32)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = self._inputs + functional.linear(attended, out)
        return hidden + functional.linear(functional.gelu(functional.linear(hidden, up)), down)
