"""From what all ranks recorded of one variant to its figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from scipy.stats import binomtest

from engine.generation.measurements import RankMeasurements, StepMeasurements, late_seconds
from launch.bench.document import Flops, Measured, RankRow, Sample, Skew, Spread, StepSeconds
from launch.bench.machine import idle_seconds, queued_seconds, step_idle_seconds
from launch.bench.records import RankRecord, VariantName, VideoMade, VideoRecord
from launch.bench.spread import spread
from parallel.degrees import Degrees

STAGES = ("encode", "denoise", "decode", "write", "total")
_LATE_SHARE = 2 / 3
"""Of the steps in which a rank comes last; of two equal ranks one always comes last in half of them or more."""


@dataclass(frozen=True)
class Video:
    """One video, as the ranks of its replica recorded it."""

    replica: int
    by_rank: Mapping[int, VideoRecord]

    @property
    def first(self) -> VideoRecord:
        """The record of the replica's first rank."""
        return self.by_rank[min(self.by_rank)]

    @property
    def made(self) -> VideoMade:
        """What only the first rank knows."""
        assert self.first.made is not None, "the first rank of a replica has made it"
        return self.first.made

    @property
    def key(self) -> tuple[int, int]:
        """Round and prompt: the same for the videos of all variants that belong together."""
        return self.first.round, self.first.prompt

    @property
    def measured(self) -> dict[int, RankMeasurements]:
        """By rank."""
        return {rank: record.measured for rank, record in self.by_rank.items()}

    @property
    def block_fraction(self) -> float:
        return self.first.measured.block_fraction

    @property
    def actions(self) -> list[str]:
        """Of each step; the same on all ranks."""
        return [step.action for step in self.first.measured.steps]

    def seconds(self, stage: str) -> float:
        """Of the slowest rank."""
        return max(measured.stage_seconds[stage] for measured in self.measured.values())

    @property
    def step_seconds(self) -> list[float]:
        """Of each step, on the slowest rank."""
        return [max(step.seconds for step in steps) for steps in self._steps]

    @property
    def agreement_seconds(self) -> list[float]:
        """Of each step's agreement, on the rank that waits the least in it; nothing on one rank."""
        if len(self.by_rank) == 1:
            return []
        return [min(step.agreement_seconds for step in steps) for steps in self._steps]

    @property
    def lateness(self) -> list[dict[int, float]]:
        """For each step, by rank: :func:`engine.generation.measurements.late_seconds`. Nothing on one rank."""
        if len(self.by_rank) == 1:
            return []
        late = late_seconds(list(self.measured.values()))
        return [dict(zip(self.by_rank, step, strict=True)) for step in zip(*late, strict=True)]

    @property
    def _steps(self) -> list[tuple[StepMeasurements, ...]]:
        """Each step, as all ranks measured it."""
        return list(zip(*(measured.steps for measured in self.measured.values()), strict=True))


def videos_of(variant: VariantName, records: Sequence[RankRecord]) -> list[Video]:
    """The counted videos of a variant, in the order of rounds and prompts."""
    found: dict[tuple[int, int], dict[int, VideoRecord]] = defaultdict(dict)
    replicas: dict[tuple[int, int], int] = {}
    for rank in records:
        for video in rank.videos:
            if video.variant == variant:
                found[video.round, video.prompt][rank.rank] = video
                replicas[video.round, video.prompt] = rank.replica
    return [Video(replicas[key], found[key]) for key in sorted(found)]


def measure(variant: VariantName, records: Sequence[RankRecord], degrees: Degrees, frames: int) -> Measured:
    """The figures of one variant.

    Args:
        records: of all ranks, each of which has made a video.
        frames: of a finished video.
    """
    videos = videos_of(variant, records)
    totals = [video.seconds("total") for video in videos]
    per_hour = 3600 * degrees.data / fmean(totals)
    steps = [step for video in videos for step in zip(video.step_seconds, video.actions, strict=True)]
    skipped = [video.actions.count("skip") for video in videos]
    everyone = [measured for video in videos for measured in video.measured.values()]
    return Measured(
        layout=asdict(degrees),
        world_size=degrees.world_size,
        videos=len(videos),
        seconds_per_video=spread(totals),
        videos_per_hour=per_hour,
        videos_per_hour_per_rank=per_hour / degrees.world_size,
        frames_per_second=per_hour * frames / 3600,
        steps_per_second=len(steps) / sum(video.seconds("denoise") for video in videos),
        stages={stage: spread([video.seconds(stage) for video in videos]) for stage in STAGES},
        steps=StepSeconds(
            computed=_spread_if_any(seconds for seconds, action in steps if action != "skip"),
            skipped=_spread_if_any(seconds for seconds, action in steps if action == "skip"),
        ),
        steps_computed=len(steps) / len(videos) - fmean(skipped),
        steps_skipped=fmean(skipped),
        block_fraction=fmean(video.block_fraction for video in videos),
        skew=_skew(videos),
        flops=_flops(videos, records, degrees),
        collective_bytes_by_kind=_largest([measured.collective_bytes for measured in everyone]),
        collective_seconds_by_kind=_seconds_by_kind(videos, records),
        agreement_microseconds=_spread_if_any(1e6 * seconds for video in videos for seconds in video.agreement_seconds),
        cache_bytes=max(measured.cache_bytes for measured in everyone),
        peak_memory_bytes=max(measured.peak_memory_bytes for measured in everyone),
        ranks=[_row(rank, videos) for rank in records],
        samples=[_sample(video) for video in videos],
    )


def _sample(video: Video) -> Sample:
    first = video.first
    occupancies = [record.occupancy for record in video.by_rank.values() if record.occupancy is not None]
    references = [record.reference_seconds for record in video.by_rank.values() if record.reference_seconds is not None]
    return Sample(
        round=first.round,
        replica=video.replica,
        prompt=first.prompt,
        seed=first.seed,
        seconds={stage: video.seconds(stage) for stage in STAGES},
        step_seconds=video.step_seconds,
        step_actions=video.actions,
        block_fraction=video.block_fraction,
        latents_sha256=video.made.latents_sha256,
        queued_seconds=queued_seconds(occupancies, STAGES) if occupancies else {},
        idle_seconds=idle_seconds(occupancies, STAGES) if occupancies else {},
        step_idle_seconds=step_idle_seconds(occupancies) if occupancies else [],
        reference_seconds=max(references, default=None),
    )


def _row(rank: RankRecord, videos: Sequence[Video]) -> RankRow:
    own = [video.measured[rank.rank] for video in videos if rank.rank in video.by_rank]
    late = [step[rank.rank] for video in videos if rank.rank in video.by_rank for step in video.lateness]
    return RankRow(
        rank=rank.rank,
        host=rank.host,
        device=rank.device,
        stages={stage: median(measured.stage_seconds[stage] for measured in own) for stage in STAGES} if own else {},
        wait_seconds=median(sum(step.agreement_seconds for step in measured.steps) for measured in own) if own else 0.0,
        late_seconds=_spread_if_any(late),
        peak_memory_bytes=max((measured.peak_memory_bytes for measured in own), default=0),
    )


def _skew(videos: Sequence[Video]) -> Skew | None:
    steps = [step for video in videos for step in video.lateness]
    if not steps:
        return None
    last = Counter(max(step, key=lambda rank: step[rank]) for step in steps)
    rank, count = last.most_common(1)[0]
    share = count / len(steps)
    return Skew(
        seconds=spread([max(step.values()) for step in steps]),
        late_rank=rank if share > _LATE_SHARE and _not_by_chance(count, len(steps), len(steps[0])) else None,
        late_share=share,
    )


def _not_by_chance(count: int, steps: int, ranks: int) -> bool:
    """Whether one of equally fast ranks would hardly ever come last so often: once in a hundred runs."""
    return bool(binomtest(count, steps, 1 / ranks, alternative="greater").pvalue * ranks < 0.01)


def _flops(videos: Sequence[Video], records: Sequence[RankRecord], degrees: Degrees) -> Flops | None:
    counted = [video.made.flops for video in videos if video.made.flops is not None]
    if len(counted) < len(videos):
        return None
    kinds, stages = _means([each.by_kind for each in counted]), _means([each.by_stage for each in counted])
    per_video = sum(kinds.values())
    rate = degrees.data * per_video / median(video.seconds("denoise") for video in videos)  # all replicas at a time
    peaks = [record.peak_flops for record in records]
    peak = min(peak for peak in peaks if peak is not None) if all(peaks) else None
    return Flops(
        per_video=per_video,
        denoise_per_second=rate,
        peak_per_second_per_rank=peak,
        share_of_peak=rate / sum(peak for peak in peaks if peak is not None) if peak is not None else None,
        by_kind=kinds,
        by_stage=stages,
    )


def _means(mappings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: fmean(mapping.get(key, 0.0) for mapping in mappings) for key in _keys(mappings)}


def _largest(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {kind: max(count.get(kind, 0) for count in counts) for kind in _keys(counts)}


def _seconds_by_kind(videos: Sequence[Video], records: Sequence[RankRecord]) -> dict[str, float]:
    """By kind, the largest over ranks of their medians over videos."""
    largest: dict[str, float] = {}
    for rank in records:
        own = [video.measured[rank.rank].collective_seconds for video in videos if rank.rank in video.by_rank]
        for kind in _keys(own):
            typical = median(seconds.get(kind, 0.0) for seconds in own)
            largest[kind] = max(typical, largest.get(kind, 0.0))
    return dict(sorted(largest.items()))


def _keys(mappings: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({key for mapping in mappings for key in mapping})


def _spread_if_any(samples: Iterable[float]) -> Spread | None:
    listed = list(samples)
    return spread(listed) if listed else None
