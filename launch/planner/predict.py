"""Seconds, throughput and memory of one layout on one cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launch.planner.memory import job_for, memory_bytes
from launch.planner.parts import Parts, add, parts_of
from launch.planner.software import FITTED, Efficiencies, Speeds, find_speeds
from launch.planner.stages import around_denoising, start_seconds
from launch.planner.steps import Plan, computed_step, skipped_step
from launch.planner.workload import Workload

GROUPS: Mapping[str, tuple[str, ...]] = {
    "compute": ("products", "attention", "elementwise", "cache"),
    "link": ("ulysses", "ring", "weights", "gather", "agreement"),
    "decode": ("decode",),
    "fixed": ("launches", "step", "encode", "write", "host_copies"),
}
"""What a part of a video's time counts as where it is said what limits."""


@dataclass(frozen=True)
class Prediction:
    """One layout on one cluster."""

    plan: Plan
    parts_off: Parts
    parts_on: Parts
    computed_step_seconds: float
    skipped_step_seconds: float
    memory_bytes: int
    fits: bool
    """Whether the cards have the memory; a CPU is not asked."""
    start_seconds: float

    @property
    def cache_off(self) -> float:
        """Seconds of one video."""
        return sum(self.parts_off.values())

    @property
    def cache_on(self) -> float:
        """Seconds of one video; as without, where there is no cache."""
        return sum(self.parts_on.values())

    @property
    def videos_per_hour(self) -> float:
        """Of all replicas, with the cache that the configuration has."""
        return 3600 * self.plan.degrees.data / self.cache_on

    def limits(self, *, cached: bool = True) -> dict[str, float]:
        """Seconds by what limits, the largest first."""
        parts = self.parts_on if cached else self.parts_off
        sums = {group: sum(parts[name] for name in names) for group, names in GROUPS.items()}
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def predict(workload: Workload, plan: Plan, speeds: Speeds | None = None, fitted: Efficiencies = FITTED) -> Prediction:
    """Predict one layout.

    Args:
        speeds: measured ones; those of the card's published figures where left out.

    Raises:
        InvalidInput: the card lacks the precision.
    """
    if speeds is None:
        ranks = plan.degrees.replica_size
        speeds = find_speeds(plan.cluster, plan.software, ranks, workload.shape.kind, fitted)
    computed_off = computed_step(workload, plan, speeds, cached=False)
    computed, skipped = computed_off, parts_of()
    skips = workload.skipping.share * workload.steps
    if skips:
        computed = computed_step(workload, plan, speeds, cached=True)
        skipped = skipped_step(workload, plan, speeds)
    around = around_denoising(workload, plan, speeds)
    return Prediction(
        plan,
        parts_off=add((computed_off, workload.steps), (around, 1)),
        parts_on=add((computed, workload.steps - skips), (skipped, skips), (around, 1)),
        computed_step_seconds=sum(computed.values()),
        skipped_step_seconds=sum(skipped.values()),
        memory_bytes=memory_bytes(workload, plan),
        fits=plan.cluster.is_cpu or job_for(workload, plan).fits(plan.cluster.card.memory_bytes),
        start_seconds=start_seconds(workload),
    )
