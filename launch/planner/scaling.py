"""What more GPUs bring: the best layout for one video on 1, 2, 4, ... GPUs of a kind, and where they stop paying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.planner.cluster import Cluster
from launch.planner.layouts import Question, predictions
from launch.planner.predict import Prediction

LARGEST = 512
"""GPUs of the last row, or a little more where nodes do not divide it."""
WORTH = 0.5
"""The efficiency below which more GPUs for one video are said not to pay."""


@dataclass(frozen=True)
class ScaleRow:
    """The fastest layout for one video on that many GPUs, and the one that makes most videos of a long list."""

    gpus: int
    fastest: Prediction | None
    """None where nothing fits."""
    fastest_without_cache: Prediction | None
    most: Prediction | None
    efficiency_off: float | None
    """GPU-seconds of a video on the fewest GPUs that it fits on, over those here."""
    efficiency_on: float | None


def sizes_of(per_node: int) -> list[int]:
    """Numbers of GPUs that nodes of so many can have: doubled inside a node, then whole nodes, doubled."""
    sizes, gpus = [], 1
    while gpus < per_node:
        sizes.append(gpus)
        gpus *= 2
    gpus = per_node
    while gpus < LARGEST:
        sizes.append(gpus)
        gpus *= 2
    return [*sizes, gpus]


def scale(question: Question, cluster: Cluster) -> list[ScaleRow]:
    """The rows for 1 to :data:`LARGEST` GPUs, or the CPU ranks that there are; nodes are as in ``cluster``."""
    rows: list[ScaleRow] = []
    first: tuple[float, float] | None = None
    largest = cluster.size if cluster.is_cpu else 2 * LARGEST  # no network between CPUs was ever measured
    for gpus in (size for size in sizes_of(cluster.per_node) if size <= largest):
        part = cluster.of_size(gpus)
        fitting = [p for p in predictions(question, part, _replicas(gpus)) if p.fits]
        alone = [p for p in fitting if p.plan.degrees.data == 1]
        if not alone:
            rows.append(ScaleRow(gpus, None, None, max(fitting, key=_hourly, default=None), None, None))
            continue
        on, off = min(alone, key=lambda p: p.cache_on), min(alone, key=lambda p: p.cache_off)
        first = first or (off.cache_off * gpus, on.cache_on * gpus)
        rows.append(
            ScaleRow(
                gpus,
                on,
                off,
                max(fitting, key=_hourly),
                first[0] / (off.cache_off * gpus),
                first[1] / (on.cache_on * gpus),
            )
        )
    return rows


def stops_paying(rows: Sequence[ScaleRow], *, cached: bool) -> int | None:
    """The most GPUs for one video whose efficiency is not below :data:`WORTH`; None where nothing fits."""
    paying = [row.gpus for row in rows if ((row.efficiency_on if cached else row.efficiency_off) or 0.0) >= WORTH]
    return max(paying, default=None)


def _hourly(prediction: Prediction) -> float:
    return prediction.videos_per_hour


def _replicas(gpus: int) -> list[int]:
    """One video together, and replicas of 1, 2, 4 and 8 GPUs: the most videos are never made by larger ones."""
    return sorted({1, *(gpus // size for size in (1, 2, 4, 8) if gpus % size == 0 and gpus >= size)})
