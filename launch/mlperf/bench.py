"""The same runs in the terms of `lockstep bench`: its ``bench.json``, from what all ranks measured of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dicache.config import CacheConfig
from engine.config import Config
from engine.execution.loaded import LoadedModel
from engine.execution.versions import describe_versions
from engine.generation.measurements import RankMeasurements
from engine.request import GenerationRequest
from launch.bench.assemble import assemble
from launch.bench.document import BenchDocument
from launch.bench.flops import count_all
from launch.bench.records import RankRecord, VariantName, VideoMade, VideoRecord
from launch.mlperf.job import CACHE_OFF, CACHE_ON, MlperfJob

WARM_UP = -1
"""The number of a video that counts for nothing."""


@dataclass(frozen=True)
class Measured:
    """One video, as one rank measured it."""

    cache: str
    number: int
    """Of the sample in its run, from 0; :data:`WARM_UP` of a warm-up."""
    prompt: int
    request: GenerationRequest
    config: Config
    measurements: RankMeasurements
    report: Mapping[str, Any] | None
    """The run report, on the first rank of a replica."""
    decode_seconds: float | None
    """Of a video that is in no file."""

    def record(self, model: LoadedModel, variant: VariantName) -> VideoRecord:
        """For a bench. FLOPs are counted here, after all runs, and not within the time of a query."""
        measured, report = self.measurements, self.report
        stages = dict(measured.stage_seconds)
        if self.decode_seconds is not None:
            stages["decode"] += self.decode_seconds
            stages["total"] += self.decode_seconds
        made = None
        if report is not None:
            flops = count_all(self.config, model.facts, self.request, report["steps"], measured.texts)
            made = VideoMade(report["output"]["latents_sha256"], flops)
        return VideoRecord(
            variant, self.number, self.prompt, self.request.seed, replace(measured, stage_seconds=stages), made=made
        )


def variant_of(job: MlperfJob, cache: str) -> VariantName:
    """The run with the configuration's cache is the configuration as given."""
    return "cache_off" if cache == CACHE_OFF and CACHE_ON in job.caches else "given"


def to_bench(
    job: MlperfJob, records: Sequence[RankRecord], model: LoadedModel, psnr_db: Mapping[int, float | None], started: str
) -> BenchDocument:
    """
    Args:
        records: of all ranks, in their order.
        psnr_db: of the run with the cache against the other, by prompt.
        started: the time of the start (UTC).
    """
    frames = job.config.sampling.frames - model.facts.dropped_frames
    compared = [replace(rank, videos=[_with_psnr(video, psnr_db) for video in rank.videos]) for rank in records]
    variants: list[VariantName] = [variant_of(job, cache) for cache in reversed(list(job.caches))]
    return assemble(compared, model.ranks.degrees, dict.fromkeys(variants, frames), _made_with(job, started))


def _with_psnr(video: VideoRecord, psnr_db: Mapping[int, float | None]) -> VideoRecord:
    if video.variant != "given" or video.made is None:
        return video
    return replace(video, made=replace(video.made, psnr_db=psnr_db.get(video.prompt)))


def _made_with(job: MlperfJob, started: str) -> dict[str, Any]:
    cache: CacheConfig = list(job.caches.values())[-1]
    return {
        "config": job.config.model_copy(update={"cache": cache}).model_dump(mode="json"),
        "mlperf": {"scenario": job.scenario.loadgen_name, "mode": job.config.mlperf.mode},
        "prompts": [request.prompts[0] for request in job.requests],
        "negative_prompt": job.requests[0].negative_prompt,
        "versions": describe_versions(),
        "command": list(job.command),
        "started": started,
    }


def now() -> str:
    """The time of day (UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds")
