"""What is measured while one rank works on one request: seconds, bytes, and what was decided at each step."""

import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from engine.execution.timing import StageClock, StepClock, Stopwatch
from engine.execution.tracing import Span, Tracing, no_span
from engine.generation.measurements import RankMeasurements, TextLength, by_kind, by_step, text_lengths
from engine.generation.step_log import StepLog
from engine.progress import Progress
from parallel.broadcast import Named, objects_of_all
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


@dataclass(frozen=True)
class RankUsage:
    """What one rank used during a request; the largest over the ranks is reported.

    Bytes and seconds; ``collective_bytes`` by kind of collective, ``lane_seconds`` by (step, lane).
    """

    weight_bytes: int
    cache_bytes: int
    collective_bytes: dict[str, int]
    agreement_seconds: float
    peak_memory_bytes: int
    lane_seconds: dict[Any, float]

    @staticmethod
    def largest(usages: Sequence["RankUsage"]) -> "RankUsage":
        """The largest of each number over the ranks."""
        kinds = sorted({kind for usage in usages for kind in usage.collective_bytes})
        return RankUsage(
            weight_bytes=max(usage.weight_bytes for usage in usages),
            cache_bytes=max(usage.cache_bytes for usage in usages),
            collective_bytes={kind: max(u.collective_bytes.get(kind, 0) for u in usages) for kind in kinds},
            agreement_seconds=max(usage.agreement_seconds for usage in usages),
            peak_memory_bytes=max(usage.peak_memory_bytes for usage in usages),
            lane_seconds=longest([usage.lane_seconds for usage in usages]),
        )


class RequestMetrics:
    """The clocks, counters and step log of one request on one rank. Stages are also told to the progress."""

    def __init__(
        self, device: torch.device, progress: Progress, measure: bool = False, tracing: Tracing | None = None
    ) -> None:
        """Starts the request's total time, and on a GPU its peak of memory.

        Args:
            measure: also time every step and every collective.
            tracing: records stages, steps and their parts.
        """
        self._tracing = tracing
        self.span: Span = tracing.span if tracing else no_span
        self._step_clock = StepClock(device) if measure else None
        self.meter = CollectiveMeter(self._step_clock.lap if self._step_clock else None)
        self.stopwatch = Stopwatch(device)
        self.steps = StepLog()
        self._started = time.perf_counter()
        self._clock = StageClock(device)
        self._device = device
        self._progress = progress
        self._cache_bytes = 0
        self._texts: tuple[Mapping[str, TextLength], ...] = ()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Inside the block the request is in this stage, and time counts as in :meth:`timed`."""
        self._progress.stage(name)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time inside for this stage, and not for the one around it."""
        self._progress.doing(name)
        with self._tracing.stage(name) if self._tracing else nullcontext():
            around = self._clock.switch(name)
            yield
            self._clock.switch(around)
        if around:
            self._progress.doing(around)

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """Inside the context is this denoise step."""
        with (
            self._tracing.step(index) if self._tracing else nullcontext(),
            self._step_clock.step(index) if self._step_clock else nullcontext(),
        ):
            yield

    def note_texts(self, encoded: Sequence[Named]) -> None:
        """The lanes are encoded: measure how long their texts are, if that was asked for; it waits for the device."""
        if self._step_clock:
            self._texts = tuple(map(text_lengths, encoded))

    def note_action(self, action: str) -> None:
        """The denoise step of now was a "warmup", "compute" or "skip"."""
        if self._tracing:
            self._tracing.saw(action)

    def note_decoded(self, frames: int, total: int) -> None:
        """That many frames, of ``total``, of a video are decoded."""
        self._progress.decoded(frames, total)

    def note_cache_bytes(self, num_bytes: int) -> None:
        """That many bytes are kept for later steps now; the most of a request is reported."""
        self._cache_bytes = max(self._cache_bytes, num_bytes)

    def lane_seconds_of_all(self, ranks: Ranks) -> dict[Any, float]:
        """Seconds of each (step, lane), also of those that other ranks computed; collective over the replica."""
        return longest(objects_of_all(self.stopwatch.seconds(), ranks))

    def usage(self, weight_bytes: int, agreement_seconds: float) -> RankUsage:
        """What this rank has used up to now."""
        return RankUsage(
            weight_bytes=weight_bytes,
            cache_bytes=self._cache_bytes,
            collective_bytes=dict(self.meter.sent_bytes),
            agreement_seconds=agreement_seconds,
            peak_memory_bytes=_peak_memory_bytes(self._device),
            lane_seconds=self.stopwatch.seconds(),
        )

    def measurements(self, rank: int, device: str, usage: RankUsage, block_fraction: float) -> RankMeasurements | None:
        """All that this rank has measured up to now; None if that was not asked for.

        Args:
            device: in words. usage: of this rank.
        """
        if self._step_clock is None:
            return None
        collectives = self._step_clock.collective_seconds()
        return RankMeasurements(
            rank=rank,
            host=socket.gethostname(),
            device=device,
            stage_seconds=self._stages() | {"total": self._total()},
            steps=by_step(self._step_clock.step_seconds(), self.steps.actions(), collectives),
            collective_bytes=usage.collective_bytes,
            collective_seconds=by_kind(collectives),
            agreement_seconds=usage.agreement_seconds,
            block_fraction=block_fraction,
            peak_memory_bytes=usage.peak_memory_bytes,
            cache_bytes=usage.cache_bytes,
            weight_bytes=usage.weight_bytes,
            texts=self._texts,
        )

    def seconds(self, load_seconds: float) -> dict[str, float]:
        """Seconds by stage for the report, and their total with loading and with all that is in no stage."""
        return {"load": load_seconds, **self._stages(), "total": load_seconds + self._total()}

    def _stages(self) -> dict[str, float]:
        return {name: self._clock.seconds[name] for name in ("encode", "denoise", "decode", "write")}

    def _total(self) -> float:
        return time.perf_counter() - self._started


def longest(by_rank: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    """The largest of what ranks have measured, by key; a rank may have measured other keys than the next."""
    keys = {key for seconds in by_rank for key in seconds}
    return {key: max(seconds.get(key, 0.0) for seconds in by_rank) for key in keys}


def _peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: by torch on a GPU during this request, else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
