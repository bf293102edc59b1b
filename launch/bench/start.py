"""How a rank of a measurement starts, and what it says of itself in the end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.jobs.config import JobConfig

if TYPE_CHECKING:
    from engine.engine import Engine
    from launch.bench.records import RankRecord, VideoRecord


@dataclass(frozen=True)
class Start:
    """What this rank measured before its first video."""

    import_seconds: float
    """From the start of its process until torch and diffusers were imported."""
    peak_flops: float
    """FLOP/s of a large matrix product on its device."""


def import_engine() -> float:
    """Import torch and diffusers, which takes seconds. Returns the seconds since this process started."""
    import_ahead("engine.engine")
    return time.time() - psutil.Process(os.getpid()).create_time()


def start_rank(
    config: JobConfig, notes: Sequence[str], progress: Progress, rank: int, import_seconds: float
) -> tuple[Engine, Start]:
    """Load the model and measure the device's peak; collective over the job.

    Args:
        notes: for the user, shown by the first rank. import_seconds: of :func:`import_engine`.
    """
    from engine.components.dtypes import transformer_dtype
    from engine.engine import Engine
    from engine.execution.peak import measure_peak_flops
    from parallel.broadcast import objects_of_all_replicas

    if rank == 0:
        for line in notes:
            progress.note(line)
    engine = Engine.load(config, progress)
    ranks = engine.model.ranks
    progress.stage("peak")
    objects_of_all_replicas(None, ranks)  # ranks of one machine measure together, as they compute together
    peak = measure_peak_flops(ranks.device, transformer_dtype(config, ranks.device))
    return engine, Start(import_seconds, peak)


def record_rank(engine: Engine, start: Start, videos: Sequence[VideoRecord]) -> RankRecord:
    """What this rank recorded.

    Args:
        videos: in the order in which they were made; those of a round below 0 warmed up, and do not count.
    """
    from engine.generation.report import describe_device
    from launch.bench.records import RankRecord

    model = engine.model
    return RankRecord(
        rank=model.ranks.rank,
        replica=model.ranks.replica,
        host=socket.gethostname(),
        device=describe_device(model.ranks.device),
        import_seconds=start.import_seconds,
        load_seconds=model.load_seconds,
        first_step_seconds=videos[0].measured.steps[0].seconds if videos else 0.0,
        peak_flops=start.peak_flops,
        videos=[video for video in videos if video.round >= 0],
    )
