"""What `lockstep bench` has measured, as points that a prediction can be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from engine.config import Config
from engine.errors import InvalidInput
from launch.bench.document import BenchDocument, Measured, Sample
from launch.planner.workload import Workload, make_workload
from parallel.degrees import Degrees

FILE = "bench.json"
_FEWEST = 3
_SECTIONS = ("model", "sampling", "cache", "parallel", "runtime")


@dataclass(frozen=True)
class Run:
    """One layout of one document, with or without the cache; seconds are medians, those of steps so that they add up to
    the denoising of a video."""

    source: str
    device: str
    workload: Workload
    degrees: Degrees
    shard_weights: bool
    cached: bool
    computed_step: float | None
    skipped_step: float | None
    stages: Mapping[str, float]
    rest: float
    """Seconds of a video outside encoding, denoising and decoding."""


def read_runs(path: Path, config: Config) -> list[Run]:
    """All runs of a bench.

    Args:
        path: a bench.json, or its folder.
        config: of the plan; its model stands for one whose folder is not on this machine.

    Raises:
        InvalidInput: there is no such file, or it is none that `lockstep bench` has written; one sentence.
    """
    file = path / FILE if path.is_dir() else path
    try:
        document = BenchDocument.model_validate_json(file.read_bytes())
        written = document.made_with["config"]
        measured = Config.model_validate_json(_json({name: written[name] for name in _SECTIONS if name in written}))
    except OSError as error:
        raise InvalidInput(f"--calibrate names {str(path)!r}, which cannot be read ({error.strerror}).") from None
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(
            f"--calibrate names {str(file)!r}, which is no result of lockstep bench ({reason[:120]}): give its {FILE}."
        ) from None
    return list(_runs(document, _with_model(measured, config), str(file)))


def _json(tree: Any) -> str:
    import json

    return json.dumps(tree)


def _with_model(measured: Config, config: Config) -> Config:
    try:
        make_workload(measured)
    except InvalidInput:
        return measured.model_copy(update={"model": config.model})
    return measured


def _runs(document: BenchDocument, config: Config, source: str) -> Iterator[Run]:
    workload, shards = make_workload(config), config.parallel.shard_weights
    found = [(document, workload.skipping.share > 0), (document.cache_off, False)]
    for row in document.scale:
        found += [(row.cache_on, workload.skipping.share > 0), (row.cache_off, False)]
    for measured, cached in found:
        if measured is not None:
            yield _run(measured, workload, source, shards, cached)


def _run(measured: Measured, workload: Workload, source: str, shards: bool, cached: bool) -> Run:
    skipped = measured.steps_skipped / max(1.0, measured.steps_skipped + measured.steps_computed)
    computed, skipping = measured.steps.computed, measured.steps.skipped
    often = skipping if skipping and skipping.samples >= _FEWEST else None
    factor = 1.0
    if computed and (often or not skipping) and "denoise" in measured.stages:
        # medians of steps add up to less than a video's denoising, for what delays a step is always late, never early
        whole = computed.median * measured.steps_computed + (often.median * measured.steps_skipped if often else 0.0)
        factor = measured.stages["denoise"].median / whole
    return Run(
        source=source,
        device=measured.ranks[0].device if measured.ranks else "unknown",
        workload=replace(workload, skipping=replace(workload.skipping, share=skipped if cached else 0.0)),
        degrees=Degrees(**measured.layout),
        shard_weights=shards,
        cached=cached,
        computed_step=factor * computed.median if computed else None,
        # one or two steps say more of the machine's other work than of a skipped step
        skipped_step=factor * often.median if often and cached else None,
        stages={name: spread.median for name, spread in measured.stages.items()},
        rest=max(1e-6, median(map(_rest, measured.samples))) if measured.samples else 1e-6,
    )


def _rest(sample: Sample) -> float:
    """Of one video: a difference of medians over videos can be far from it, and below 0."""
    return sample.seconds["total"] - sum(sample.seconds.get(name, 0.0) for name in ("encode", "denoise", "decode"))
