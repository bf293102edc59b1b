"""One video of a bench, on one rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from engine.engine import Engine
from engine.execution.tracing import trace
from engine.progress import Progress
from launch.bench.flops import count_all
from launch.bench.job import Variant
from launch.bench.machine import Occupancy, ReferenceWork
from launch.bench.records import VideoMade, VideoRecord
from launch.ranks.lead import StepsOnly
from launch.sweep.metrics import psnr
from parallel.broadcast import objects_of_all
from parallel.ranks import set_timeouts


@dataclass(frozen=True)
class Place:
    """Which video of a run it is."""

    round: int
    prompt: int


class VideoMaker:
    """Makes videos of one variant on a loaded model; collective over the replica."""

    def __init__(self, engine: Engine, variant: Variant, reference: ReferenceWork, progress: Progress) -> None:
        self._engine = engine.configured(variant.config)
        self._variant = variant
        self._reference = reference
        self._progress = progress

    def make(self, place: Place, output: Path) -> tuple[VideoRecord, Tensor]:
        """Make and write one video.

        Args:
            output: the video file, written by the first rank of the replica.

        Returns:
            What this rank measured, and the final latents.
        """
        config, ranks = self._engine.model.config, self._engine.model.ranks
        request = self._variant.requests[place.prompt]
        reference_seconds = self._reference.seconds()
        set_timeouts(config.runtime.load_timeout_seconds)
        objects_of_all(None, ranks)  # a rank that comes late from the last video would count as slow in this one
        occupancy = Occupancy()
        engine = self._engine.configured(config, _Both(StepsOnly(self._progress), occupancy))
        result = engine.generate(request, output, measure=True)
        occupancy.end()
        assert result.measurements is not None, "they were asked for"
        made = None
        if result.report is not None:
            steps, texts = result.report["steps"], result.measurements.texts
            flops = count_all(config, self._engine.model.facts, request, steps, texts)
            made = VideoMade(result.report["output"]["latents_sha256"], flops)
        record = VideoRecord(
            variant=self._variant.name,
            round=place.round,
            prompt=place.prompt,
            seed=request.seed,
            measured=result.measurements,
            occupancy=occupancy,
            reference_seconds=reference_seconds,
            made=made,
        )
        return record, result.latents

    def trace(self, prompt: int, output: Path, folder: Path) -> None:
        """Make one video and write a trace of each rank.

        Args:
            output: the video file. folder: of the traces.
        """
        ranks = self._engine.model.ranks
        engine = self._engine.configured(self._engine.model.config, StepsOnly(self._progress))
        with trace(folder, ranks.rank, ranks.device) as tracing:
            engine.generate(self._variant.requests[prompt], output, tracing=tracing)

    def frames(self, latents: Tensor) -> Tensor | None:
        """The frames of a video: :meth:`engine.engine.Engine.decode`."""
        return self._engine.decode(latents[0])


def compare_frames(record: VideoRecord, frames: Tensor | None, expected: Tensor | None) -> VideoRecord:
    """The record of a video with how much its frames are like others.

    Args:
        frames, expected: uint8 [frames, height, width, 3] on the first rank of a replica; None elsewhere.
    """
    if record.made is None or frames is None or expected is None:
        return record
    return replace(record, made=replace(record.made, psnr_db=psnr(frames, expected)))


class _Both(Progress):
    """Tells a display and a clock what this rank does."""

    def __init__(self, display: Progress, occupancy: Occupancy) -> None:
        self._all = (display, occupancy)

    @property
    def is_watched(self) -> bool:
        return any(each.is_watched for each in self._all)

    def doing(self, name: str) -> None:
        for each in self._all:
            each.doing(name)

    def step(self, index: int, total: int, action: str) -> None:
        for each in self._all:
            each.step(index, total, action)

    def alive(self) -> None:
        for each in self._all:
            each.alive()
