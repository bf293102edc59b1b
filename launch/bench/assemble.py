"""From what all ranks recorded to `bench.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from launch.bench.document import BenchDocument, CacheGain, Measured, Startup
from launch.bench.measured import Video, measure, videos_of
from launch.bench.records import RankRecord, VariantName
from launch.bench.spread import spread
from launch.sweep.metrics import IDENTICAL_PSNR
from parallel.degrees import Degrees


def assemble(
    records: Sequence[RankRecord],
    degrees: Degrees,
    frames: Mapping[VariantName, int],
    made_with: Mapping[str, Any],
    against: Measured | None = None,
) -> BenchDocument:
    """The document of a run.

    Args:
        records: of all ranks, in their order.
        degrees: the layout.
        frames: of a finished video of each variant that was measured.
        made_with: what the records do not say: configuration, versions, command.
        against: what another build has measured by turns.
    """
    measured = {name: measure(name, records, degrees, count) for name, count in frames.items()}
    hosts = list(dict.fromkeys(record.host for record in records))
    return BenchDocument(
        **dict(measured["given"]),
        made_with={**made_with, "hosts": hosts, "device": records[0].device},
        startup_seconds=Startup(
            import_=max(record.import_seconds for record in records),
            load=max(record.load_seconds for record in records),
            first_step=max(record.first_step_seconds for record in records),
        ),
        cache_gain=_gain(records, measured["given"]) if "cache_off" in measured else None,
        cache_off=measured.get("cache_off"),
        against=against or measured.get("against"),
    )


def _gain(records: Sequence[RankRecord], given: Measured) -> CacheGain | None:
    """From the videos that both variants have made: all of a bench. None where there are none."""
    without = {video.key: video for video in videos_of("cache_off", records)}
    pairs = [(video, without[video.key]) for video in videos_of("given", records) if video.key in without]
    if not pairs:
        return None
    saved = fmean(off.seconds("denoise") - on.seconds("denoise") for on, off in pairs)
    # without a cache, denoising is all but nothing else than running the blocks
    left_out = fmean((1 - on.block_fraction) * off.seconds("denoise") for on, off in pairs)
    decibels = [video.made.psnr_db for video, _ in pairs if video.made.psnr_db is not None]
    return CacheGain(
        speedup=spread([_ratio(pair, "denoise") for pair in pairs]),
        end_to_end=spread([_ratio(pair, "total") for pair in pairs]),
        ideal=1 / given.block_fraction,
        share_of_ideal=saved / left_out if left_out else None,
        psnr_db=spread(decibels) if any(value < IDENTICAL_PSNR for value in decibels) else None,
    )


def _ratio(pair: tuple[Video, Video], stage: str) -> float:
    on, off = pair
    return off.seconds(stage) / on.seconds(stage)
