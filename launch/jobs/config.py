"""The configuration of a job: the engine's sections, and those that only launchers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.config import Config, Section
from engine.config_file import Note, read_config, say_nothing


class RayConfig(Section):
    max_restarts: int = Field(
        3,
        ge=0,
        le=1000,
        description="Times that a run on Ray is begun again, from its newest checkpoint, after a rank was lost; only "
        "with `checkpoint.every`.",
    )
    max_preemptions: int = Field(
        16,
        ge=0,
        le=1000,
        description="The same where a rank was lost because its node was pre-empted, as Ray had been told.",
    )
    start_timeout_seconds: float = Field(
        300,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="The run waits this long for room in the cluster, and then for its processes to start.",
    )
    head_timeout_seconds: float = Field(
        60,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="How long the head of the Ray cluster may be silent, for one that is started again with fault "
        "tolerance; then the run ends, and can be resumed from its checkpoint.",
    )
    silence_timeout_seconds: float = Field(
        60,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="A rank whose process does not answer for so long counts as lost; one that answers and does not "
        "get on is given `runtime.step_timeout_seconds` or `runtime.load_timeout_seconds`.",
    )


class CalibrateConfig(Section):
    refine: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (),
        strict=False,
        description="Shares of skipped steps, values of `cache.gate.steps_skipped`, for which `lockstep calibrate` "
        "improves the list of computed steps by trial runs.",
    )
    trials: int = Field(
        40,
        ge=1,
        le=10000,
        description="Lists to try for each of these shares, at most; most are given up after three prompts.",
    )


class MlperfConfig(Section):
    mode: Literal["performance", "accuracy"] = Field(
        "performance",
        description="`accuracy` makes each prompt's video once and writes it under the name that VBench expects.",
    )
    queries: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="The fewest queries of SingleStream (none: 64, the fewest that LoadGen calls valid at the 90th "
        "percentile; the standard asks for 50), or samples of Offline (none: 248, or one of each prompt if there are "
        "fewer).",
    )
    min_duration_seconds: float = Field(
        600,
        ge=0,
        le=604800,
        allow_inf_nan=False,
        description="A performance run takes at least this long; the standard asks for 600.",
    )
    vbench_python: str | None = Field(
        None,
        description="The Python interpreter of an environment that has the package `vbench`, whose pins clash with "
        "ours; it scores the videos of an accuracy run, if VBench's weights are there.",
    )


class JobConfig(Config):
    """What a configuration file may hold. The engine takes it as its own :class:`engine.config.Config`."""

    ray: RayConfig = Field(default_factory=RayConfig)
    calibrate: CalibrateConfig = Field(default_factory=CalibrateConfig)
    mlperf: MlperfConfig = Field(
        default_factory=MlperfConfig, description="Of `lockstep bench --mlperf`: docs/bench-mlperf.md."
    )


def load_job_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    note: Note = say_nothing,
    sections: Mapping[str, Any] | None = None,
) -> JobConfig:
    """As :func:`engine.config_file.read_config`, with all sections of a job.

    Raises:
        InvalidInput: the file, a key or a value is not acceptable; one sentence that names it.
    """
    return read_config(JobConfig, path, overrides, note, sections)
