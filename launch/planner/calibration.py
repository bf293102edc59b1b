"""Puts what `lockstep bench` has measured in the place of published rates.

On a GPU efficiencies are fitted, which multiply published rates. Of a CPU nothing is published: there all rates are
fitted, from any start. A rate that no measurement depends on stays as it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import Config
from engine.errors import InvalidInput
from launch.planner.cards import CPU
from launch.planner.cluster import Cluster
from launch.planner.least_squares import fit
from launch.planner.measured import Run, read_runs
from launch.planner.memory import swaps_experts
from launch.planner.software import FITTED, Efficiencies, Software, Speeds, find_speeds
from launch.planner.stages import around_denoising
from launch.planner.steps import Plan, computed_step, skipped_step

_WEAK, _FIRM = 0.02, 0.3
_START_OF_CPU = Speeds(
    product_flops=5e10,
    attention_flops=3e10,
    memory_bandwidth=5e9,
    elementwise_passes=124,
    exchange_passes=16,
    saturation_tokens=0,
    block_seconds=5e-4,
    overlaps=False,
    step_seconds=1e-3,
    lane_seconds=1e-3,
    convolution_flops=3e10,
    copy_bandwidth=1e9,
    host_bandwidth=1e9,
    encode_seconds=0.02,
    write_seconds=0.05,
    write_pixel_seconds=1e-8,
    agreement_seconds=5e-4,
)
_FITTED_ON_CPU = (
    "product_flops",
    "attention_flops",
    "memory_bandwidth",
    "block_seconds",
    "step_seconds",
    "lane_seconds",
    "convolution_flops",
    "encode_seconds",
    "write_seconds",
    "write_pixel_seconds",
    "agreement_seconds",
    "contention",
)
_LATENCY, _RATE = "latency_seconds", "bytes_per_second"


@dataclass(frozen=True)
class Calibration:
    """What was found. For a GPU the efficiencies, for a CPU the speeds and the link between its ranks."""

    sources: Sequence[str]
    notes: Sequence[str]
    fitted: Efficiencies | None = None
    speeds: Speeds | None = None
    cluster: Cluster | None = None


def calibrate(paths: Sequence[Path], config: Config, cluster: Cluster, software: Software) -> Calibration:
    """Fit rates to the results of benches on this kind of device.

    Args:
        paths: each a bench.json, or its folder.

    Raises:
        InvalidInput: a file is none, or was measured on another kind of device; one sentence.
    """
    runs = [run for path in paths for run in read_runs(path, config)]
    for run in runs:
        if not _is_named(cluster.card.name, run.device):
            raise InvalidInput(
                f"--calibrate names {run.source!r}, which was measured on {run.device!r}, but --cluster is of "
                f"{cluster.card.name}: measure on such a device, or plan for that one."
            )
    return _of_cpu(runs, cluster, software) if cluster.card.name == CPU else _of_gpu(runs, cluster, software)


def _is_named(card: str, device: str) -> bool:
    """Whether a device's name is of that card: "NVIDIA GeForce RTX 4090" of RTX4090, but "NVIDIA GB200" not of B200."""
    letters, rest = re.match(r"([a-z]*)(.*)", card.lower()).groups()  # type: ignore[union-attr]  # it matches anything
    return re.search(rf"(?<![a-z]){letters}\s*{rest}(?![0-9])", device.lower()) is not None


def _of_cpu(runs: Sequence[Run], cluster: Cluster, software: Software) -> Calibration:
    start = {name: float(getattr(_START_OF_CPU, name)) for name in _FITTED_ON_CPU}
    start |= {_LATENCY: cluster.inside.latency_seconds, _RATE: cluster.inside.bytes_per_second}
    pull = dict.fromkeys(start, _WEAK) | {"contention": _FIRM}

    def applied(values: Mapping[str, float]) -> tuple[Speeds, Cluster]:
        rates = {name: values[name] for name in _FITTED_ON_CPU}
        # ranks that share a processor are never faster than one alone, whatever noise says
        speeds = _START_OF_CPU.with_rates(rates | {"contention": max(1.0, rates["contention"])})
        link = replace(cluster.inside, latency_seconds=values[_LATENCY], bytes_per_second=values[_RATE])
        return speeds, replace(cluster, inside=link)

    def errors(values: Mapping[str, float]) -> list[float]:
        speeds, linked = applied(values)
        return [error for run in runs for error in _errors(run, speeds, linked, software)]

    speeds, linked = applied(fit(errors, start, pull))
    left = [error for run in runs for error in _errors(run, speeds, linked, software)]
    return Calibration(_sources(runs), _notes(left, runs), speeds=speeds, cluster=linked)


def _of_gpu(runs: Sequence[Run], cluster: Cluster, software: Software) -> Calibration:
    def speeds_with(values: Mapping[str, float], run: Run) -> Speeds:
        efficiencies = Efficiencies(**values)
        return find_speeds(cluster, software, run.degrees.replica_size, run.workload.shape.kind, efficiencies)

    def errors(values: Mapping[str, float]) -> list[float]:
        return [error for run in runs for error in _errors(run, speeds_with(values, run), cluster, software)]

    start = {name: float(value) for name, value in vars(FITTED).items()}
    values = fit(errors, start, dict.fromkeys(start, _FIRM))
    return Calibration(
        _sources(runs),
        _notes([error for run in runs for error in _errors(run, speeds_with(values, run), cluster, software)], runs),
        fitted=Efficiencies(**values),
    )


def _errors(run: Run, speeds: Speeds, cluster: Cluster, software: Software) -> list[float]:
    """Logarithms of predicted over measured seconds: of steps, and of what is around them."""
    plan = Plan(_holding(cluster, run), run.degrees, software, run.shard_weights)
    pairs: list[tuple[float, float]] = []
    if run.computed_step:
        pairs.append((sum(computed_step(run.workload, plan, speeds, cached=run.cached).values()), run.computed_step))
    if run.skipped_step:
        pairs.append((sum(skipped_step(run.workload, plan, speeds).values()), run.skipped_step))
    around = around_denoising(run.workload, plan, speeds)
    if run.stages.get("encode") and not swaps_experts(run.workload, plan):  # else copies count as denoising
        pairs.append((around["encode"] + around["host_copies"], run.stages["encode"]))
    if run.stages.get("decode"):
        pairs.append((around["decode"], run.stages["decode"]))
    pairs.append((around["write"], run.rest))
    return [math.log(max(predicted, 1e-9) / measured) for predicted, measured in pairs]


def _holding(cluster: Cluster, run: Run) -> Cluster:
    """The cluster, large enough for the run."""
    ranks = run.degrees.world_size
    return replace(cluster, nodes=-(-ranks // cluster.per_node)) if ranks > cluster.size else cluster


def _sources(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.source for run in runs))


def _notes(errors: Sequence[float], runs: Sequence[Run]) -> list[str]:
    left = math.expm1(max(map(abs, errors), default=0.0))
    return [f"calibrated on {len(runs)} runs; the largest difference left is {left:.0%} of a step or a stage"]
