"""The first rank's part of a sweep: it finds out which videos are missing, and has all ranks make them."""

from __future__ import annotations

from collections.abc import Iterator

from dicache.config import CacheConfig
from engine.progress import Progress
from engine.request import GenerationRequest
from launch.ranks.lead import Lead
from launch.sweep.curves import Curve, Setting, make_cache
from launch.sweep.folder import Run
from launch.sweep.job import SweepJob
from launch.sweep.metrics import IDENTICAL_PSNR, psnr, ssim
from launch.sweep.rows import Row
from launch.sweep.share import STILL_THE_SHARE, find_value, known_share
from launch.sweep.video import Order, Video

_MOST_INTERVAL = 20


class Sweep:
    """Measures all settings of a sweep. What an earlier sweep has left in the folder is not made again."""

    def __init__(self, job: SweepJob, lead: Lead[Order, Video | None], progress: Progress) -> None:
        self._job = job
        self._lead = lead
        self._progress = progress
        self._uncached = make_cache("none", {"method": "none"})

    def rows(self) -> list[Row]:
        """The rows of all settings, that of the uncached run first."""
        job = self._job
        job.folder.begin(job.made_with)
        rows = [Row.of(Setting("none", "every step", self._uncached), None, self._references())]
        for number, curve in enumerate(job.curves):
            for setting, target in self._settings(curve):
                self._progress.stage(f"{curve.name} ({number + 1} of {len(job.curves)}): {setting.label}")
                runs = [self._run(setting.cache, request) for request in job.requests]
                row = Row.of(setting, target, runs)
                self._progress.note(f"  {row.summary}")
                rows.append(row)
        return rows

    def _references(self) -> list[Run]:
        self._progress.stage(f"uncached runs of {len(self._job.requests)} prompts")
        return [self._reference(request) for request in self._job.requests]

    def _reference(self, request: GenerationRequest) -> Run:
        folder = self._job.folder
        run = folder.run(self._uncached, request)
        if run is None or folder.reference(request) is None:
            video = self._make(self._uncached, request)
            run = _figures(video, IDENTICAL_PSNR, 1.0)
            folder.keep_reference(request, video.frames)
            folder.keep_run(self._uncached, request, run)
        return run

    def _run(self, cache: CacheConfig, request: GenerationRequest) -> Run:
        folder = self._job.folder
        run = folder.run(cache, request)
        if run is None:
            video = self._make(cache, request)
            expected = folder.reference(request)
            assert expected is not None, "references are made first"
            run = _figures(video, psnr(video.frames, expected), ssim(video.frames, expected))
            folder.keep_run(cache, request, run)
        return run

    def _make(self, cache: CacheConfig, request: GenerationRequest) -> Video:
        video = self._lead.run((cache, request))
        assert video is not None, "the first rank has the frames"
        return video

    def _settings(self, curve: Curve) -> Iterator[tuple[Setting, float | None]]:
        """The settings of a curve, each with the share of skipped steps for which it was searched, if one was."""
        if not self._job.shares or curve.knob is None or curve.values is not None:
            yield from ((setting, None) for setting in curve.ladder())
            return
        known: list[dict[float, float]] = [{} for _ in curve.variants]
        for target in self._job.shares:
            for changes, shares in zip(curve.variants, known, strict=True):
                if (value := self._find(curve, target, changes, shares)) is not None:
                    yield curve.at(value, **changes), target
                    break
            else:
                self._progress.note(f"  {curve.name} does not come near {target:.0%} of steps skipped")

    def _find(self, curve: Curve, target: float, changes: dict[str, object], known: dict[float, float]) -> float | None:
        if curve.knob == "gate.interval":
            shares = {n: self._share(curve.at(n, **changes)) for n in range(2, _MOST_INTERVAL)}
            nearest = min(shares, key=lambda n: abs(shares[n] - target))
            return nearest if abs(shares[nearest] - target) <= STILL_THE_SHARE else None
        if curve.knob == "gate.steps_skipped":
            return target if abs(self._share(curve.at(target)) - target) <= STILL_THE_SHARE else None
        return find_value(target, lambda value: self._share(curve.at(value, **changes)), curve.default_value, known)

    def _share(self, setting: Setting) -> float:
        job = self._job
        sampling = job.config.sampling
        share = known_share(setting.cache, sampling.steps, job.num_branches, job.published, sampling.shift)
        if share is not None:
            return share
        self._progress.stage(f"{setting.curve}: looking at {setting.label}")
        runs = [self._run(setting.cache, request) for request in job.requests[: job.tune_prompts]]
        return sum(run.steps_skipped for run in runs) / len(runs)


def _figures(video: Video, decibels: float, likeness: float) -> Run:
    totals = video.report["totals"]
    return Run(
        steps_skipped=totals["skipped"] / len(video.report["steps"]),
        blocks_computed=totals["block_fraction"],
        denoise_seconds=totals["seconds"]["denoise"],
        cache_bytes=totals["cache_bytes_per_rank"],
        psnr=decibels,
        ssim=likeness,
    )
