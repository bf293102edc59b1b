"""The memory that a layout takes on a card, by the rule that the engine goes by (:mod:`engine.cost.job`)."""

from __future__ import annotations

from engine.cost.job import Job
from engine.cost.memory import CACHED_TENSORS
from launch.planner.steps import Plan
from launch.planner.workload import Workload


def job_for(workload: Workload, plan: Plan) -> Job:
    """The job that the engine would check before it loads."""
    software = plan.software
    return Job(
        workload.model,
        workload.model.video,
        workload.branches,
        plan.degrees,
        plan.shard_weights,
        software.offload,
        cached_tensors=CACHED_TENSORS if workload.skipping.share else 0,
        block_bytes=plan.dtype_bytes,
        weight_bytes=plan.weight_bytes,
        encoder_bytes=plan.dtype_bytes,
        vae_bytes=4 if software.vae == "float32" else 2,
    )


def memory_bytes(workload: Workload, plan: Plan) -> int:
    """The most that a card holds at once, with the experts, encoders and VAE that stay on it."""
    job, card = job_for(workload, plan), plan.cluster.card.memory_bytes
    if plan.cluster.is_cpu:
        return job.memory(float("inf")).peak
    memory = job.memory(card)
    return memory.peak_with_all if others_stay(workload, plan) else memory.peak


def others_stay(workload: Workload, plan: Plan) -> bool:
    """Whether encoders and VAE stay on the card between videos."""
    if plan.software.encoders_stay is not None:
        return plan.software.encoders_stay
    return plan.cluster.is_cpu or job_for(workload, plan).others_stay(plan.cluster.card.memory_bytes)


def swaps_experts(workload: Workload, plan: Plan) -> bool:
    """Whether one expert waits in the host's memory while the other runs."""
    if workload.experts == 1 or plan.shard_weights or plan.cluster.is_cpu or plan.software.streamed_blocks:
        return False
    return job_for(workload, plan).settled(plan.cluster.card.memory_bytes) == "experts"
