"""Makes a plan from the options of the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidInput
from engine.models.families import Family
from launch.jobs.config import JobConfig
from launch.planner.assemble import assemble
from launch.planner.calibration import calibrate
from launch.planner.cards import Kernel, Precision
from launch.planner.choice import Choice, Goal, choose, describe
from launch.planner.cluster import Cluster, parse_cluster
from launch.planner.document import PlanDocument
from launch.planner.layouts import Question, predict_configured, predictions
from launch.planner.predict import Prediction
from launch.planner.scaling import ScaleRow, scale
from launch.planner.software import FITTED, Software
from launch.planner.workload import make_workload
from parallel.config import ParallelConfig
from parallel.kernels import Wish


@dataclass(frozen=True)
class PlanOptions:
    """As they are given; nothing is checked yet."""

    cluster: str
    link: str | None = None
    goal: Goal = Goal.LATENCY
    deadline_seconds: float | None = None
    price: float | None = None
    skip_share: float | None = None
    precision: Precision = "bf16"
    attention: Kernel | None = None
    fused: bool = False
    calibrate: Sequence[Path] = ()
    given: Sequence[str] = ()
    """Keys that the command line sets; degrees among them are kept."""


@dataclass(frozen=True)
class Planned:
    """A plan, for the screen and for the report."""

    question: Question
    cluster: Cluster
    choice: Choice
    configured: Prediction | None
    rows: list[ScaleRow]
    document: PlanDocument
    notes: list[str]


def make_plan(config: JobConfig, options: PlanOptions) -> Planned:
    """The whole plan.

    Raises:
        InvalidInput: an option cannot be, or no layout will do; one sentence.
    """
    _check(options)
    cluster = parse_cluster(options.cluster, options.link)
    workload = make_workload(config, options.skip_share)
    software = _software(config, options, cluster, workload.facts.family)
    if not cluster.is_cpu:
        cluster.card.peak_flops(options.precision)
    measured = calibrate(options.calibrate, config, cluster, software) if options.calibrate else None
    if cluster.is_cpu and measured is None:
        raise InvalidInput(
            "--cluster names the CPU, whose speed is published nowhere: give --calibrate with a bench.json of this "
            "machine (lockstep bench)."
        )
    cluster = measured.cluster if measured and measured.cluster else cluster
    question = Question(
        workload,
        software,
        measured.fitted if measured and measured.fitted else FITTED,
        measured.speeds if measured else None,
        _given(config, options.given),
        config.parallel.shard_weights
        if config.parallel.shard_weights or "parallel.shard_weights" in options.given
        else None,
    )
    choice = choose(question, cluster, options.goal, options.deadline_seconds)
    rows = scale(question, cluster)
    configured = predict_configured(question, cluster, config.parallel)
    document = assemble(question, cluster, choice, configured, rows, measured, options.price)
    notes = [*(measured.notes if measured else ()), *_fewer(question, cluster, choice)]
    return Planned(question, cluster, choice, configured, rows, document, notes)


def _software(config: JobConfig, options: PlanOptions, cluster: Cluster, family: Family) -> Software:
    """What the configuration and the options say of dtypes and kernels."""
    model = config.model
    single = model.dtype == "float32" or cluster.is_cpu
    if single and options.precision != "bf16":
        raise InvalidInput(f"--precision is {options.precision}, but model.dtype is float32: leave one of the two out.")
    by_itself = "float32" if cluster.is_cpu else family.vae_dtype
    vae = by_itself if model.vae_dtype == "auto" else model.vae_dtype
    # where layouts must not matter the engine takes torch's own
    kernel: Wish = "sdpa" if config.runtime.deterministic else config.runtime.attention
    return Software(
        precision=options.precision,
        kernel=options.attention or kernel,
        fused=options.fused,
        dtype="float32" if single else "bfloat16",
        vae="float32" if vae == "float32" else "bfloat16",  # float16 is as fast
        offload=config.runtime.offload,
        streamed_blocks=config.runtime.offload == "blocks" and not cluster.is_cpu,
    )


def _fewer(question: Question, cluster: Cluster, choice: Choice) -> list[str]:
    """A line where some of one node's GPUs are faster for one video than all of them."""
    if cluster.nodes > 1 or choice.best.plan.degrees.data > 1:
        return []
    parts = (cluster.of_size(gpus) for gpus in range(cluster.size // 2 + 1, cluster.size))
    others = [p for part in parts for p in predictions(question, part, [1]) if p.fits]
    best = min(others, key=lambda p: p.cache_on, default=None)
    if best is None or best.cache_on >= choice.best.cache_on:
        return []
    gpus = best.plan.degrees.world_size
    return [f"{gpus} of the {cluster.size} GPUs would be faster for one video: {describe(best)}, {best.cache_on:.1f} s"]


def _check(options: PlanOptions) -> None:
    if options.goal is Goal.DEADLINE and options.deadline_seconds is None:
        raise InvalidInput("--goal is deadline, but there is no --deadline: give the seconds that a video may take.")
    if options.deadline_seconds is not None:
        if options.goal is not Goal.DEADLINE:
            raise InvalidInput(
                f"--deadline is {options.deadline_seconds:g}, but --goal is {options.goal.value}: use --goal deadline."
            )
        _positive("--deadline", options.deadline_seconds, "seconds above 0")
    if options.price is not None:
        _positive("--price-per-gpu-hour", options.price, "a price above 0")
    share = options.skip_share
    if share is not None and not (math.isfinite(share) and 0 <= share < 1):
        raise InvalidInput(f"--skip-share is {share:g}, but it should be a share from 0 to below 1, as in 0.6.")


def _positive(option: str, value: float, wanted: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{option} is {value:g}, but it should be {wanted}.")


def _given(config: JobConfig, keys: Sequence[str]) -> ParallelConfig:
    """The degrees that the command line gives; those in the file are for another machine."""
    given = {key.removeprefix("parallel.") for key in keys if key.startswith("parallel.")}
    section = config.parallel
    return ParallelConfig(
        data=section.data if "data" in given else 1,
        cfg=section.cfg if "cfg" in given else None,
        ulysses=section.ulysses if "ulysses" in given else None,
        ring=section.ring if "ring" in given else None,
    )
