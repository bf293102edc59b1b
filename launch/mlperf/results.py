"""The results of a test, as they stand in ``mlperf.json`` (docs/bench-mlperf.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import mean, median
from typing import Any

from engine.execution.loaded import LoadedModel
from engine.generation.report import describe_run
from launch.mlperf.job import CACHE_ON, MlperfJob
from launch.mlperf.log_check import accuracy_faults, performance_faults, read_detail, result_of, submission_faults
from launch.mlperf.session import TestRun

SCHEMA = 1


def to_document(
    job: MlperfJob,
    runs: Sequence[TestRun],
    psnr_db: Mapping[int, float | None],
    vbench: Mapping[str, Any] | None,
    model: LoadedModel,
) -> dict[str, Any]:
    """
    Args:
        runs: the first with the cache off.
        psnr_db: of the second run against the first, by prompt.
        vbench: of an accuracy run.

    Raises:
        OSError, ValueError: LoadGen's logs are not there.
    """
    config = job.config
    return {
        "schema": SCHEMA,
        "scenario": job.scenario.loadgen_name,
        "mode": config.mlperf.mode,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_with": describe_run(model)
        | {
            "sampling": config.sampling.model_dump(mode="json"),
            "negative_prompt": job.requests[0].negative_prompt,
            "seed": job.requests[0].seed,
            "latent": "seed" if job.noise is None else "file",
            "mlperf": config.mlperf.model_dump(mode="json"),
        },
        "departures_from_the_standard": list(job.departures),
        **{run.cache: _describe(job, run) for run in runs},
        "gain": _gain(job, runs),
        "psnr_db": _likeness(job, psnr_db) if len(runs) > 1 else None,
        "vbench": vbench,
    }


def _describe(job: MlperfJob, run: TestRun) -> dict[str, Any]:
    """One run: LoadGen's number, what was made, and whether the logs are valid."""
    folder = job.log_folder(run.cache)
    detail = read_detail(folder)
    faults: list[str]
    unkept: list[str] = []
    if job.accuracy:
        faults = list(accuracy_faults(folder, detail, len(job.requests)))
    else:
        faults, unkept = list(performance_faults(folder, detail, run.served)), list(submission_faults(detail))
    stages = {key for sample in run.samples for key in sample.seconds}
    return {
        "division": "open" if run.cache == CACHE_ON else "closed rules",
        "cache": job.caches[run.cache].model_dump(mode="json"),
        "result": None if job.accuracy else result_of(detail),
        "valid": not faults,
        "faults": faults,
        "submission_rules_not_kept": unkept,
        "loadgen_version": detail.get("loadgen_version"),
        "logs": run.cache,
        "samples": len(run.samples),
        "prompts": len({sample.prompt for sample in run.samples}),
        "warm_up_seconds": run.warm_up_seconds,
        "median_seconds": {key: median(sample.seconds[key] for sample in run.samples) for key in sorted(stages)},
        "steps_skipped": mean(sample.steps_skipped for sample in run.samples),
        "block_fraction": mean(sample.block_fraction for sample in run.samples),
        "samples_by_replica": _by_replica(run),
    }


def _by_replica(run: TestRun) -> list[int]:
    numbers = [sample.replica for sample in run.samples]
    return [numbers.count(replica) for replica in range(max(numbers) + 1)]


def _gain(job: MlperfJob, runs: Sequence[TestRun]) -> float | None:
    """How many times better the second run's number is than the first's."""
    if job.accuracy or len(runs) < 2:
        return None
    off, on = (result_of(read_detail(job.log_folder(run.cache))) for run in runs)
    rate, latency = "samples_per_second", "latency_p90_seconds"
    better, worse = (on.get(rate), off.get(rate)) if rate in off else (off.get(latency), on.get(latency))
    return better / worse if better and worse else None


def _likeness(job: MlperfJob, psnr_db: Mapping[int, float | None]) -> dict[str, Any]:
    known = [value for value in psnr_db.values() if value is not None]
    return {
        "mean": mean(known) if known else None,
        "worst": min(known) if known else None,
        "prompts": [{"prompt": job.requests[number].prompts[0], "psnr_db": value} for number, value in psnr_db.items()],
    }
