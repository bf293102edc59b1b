"""What one rank measured, as plain data: of each video, and of its start. Those of all ranks make a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.generation.measurements import RankMeasurements
from launch.bench.flops import Counted
from launch.bench.machine import Occupancy

VariantName = Literal["given", "cache_off", "against"]
"""The configuration as given, the same without its cache, and the configuration of ``--against``."""


@dataclass(frozen=True)
class VideoMade:
    """What the first rank of a replica knows of a video."""

    latents_sha256: str
    flops: Counted | None = None
    """Model FLOPs of what ran; None where the lengths of texts are not known."""
    psnr_db: float | None = None
    """Of its frames against those of the same video without the cache; 100 where they are equal; None where they were
    not compared."""


@dataclass(frozen=True)
class VideoRecord:
    """One video, as one rank measured it."""

    variant: VariantName
    round: int
    """From 0; below 0 of a warm-up."""
    prompt: int
    seed: int
    measured: RankMeasurements
    occupancy: Occupancy | None = None
    """None where it was not measured."""
    reference_seconds: float | None = None
    """Of a fixed piece of work, just before; None where it was not timed."""
    made: VideoMade | None = None
    """On the first rank of a replica."""


@dataclass(frozen=True)
class RankRecord:
    """One rank's part of a run."""

    rank: int
    replica: int
    host: str
    device: str
    import_seconds: float
    """From the start of its process until torch and diffusers were imported."""
    load_seconds: float
    first_step_seconds: float
    """Of the first video, be it a warm-up or not; 0 where the other replicas have made all."""
    peak_flops: float | None
    """FLOP/s of a large matrix product on its device."""
    videos: Sequence[VideoRecord]
    """Those that count."""
