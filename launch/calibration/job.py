"""What `lockstep calibrate` was asked, checked before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicache.config import CacheConfig
from engine.checkpoints.match import calibrated_for, calibrated_request
from engine.checks.preflight import preflight
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.models.hub import resolve_model
from engine.request import GenerationRequest, Outputs, make_tasks, read_prompts
from launch.jobs.config import JobConfig, load_job_config
from launch.process.signals import say
from parallel.degrees import Degrees


@dataclass(frozen=True)
class CalibrateOptions:
    """What was typed after `calibrate`, but for the number of ranks."""

    config: str
    prompts_file: Path
    output: Path
    overrides: Sequence[str] = field(default_factory=tuple)
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None

    def to_argv(self) -> list[str]:
        """Arguments that parse to these options again, whatever the values look like."""
        sets = [f"--set={override}" for override in self.overrides]
        asked = {"--negative-prompt": self.negative_prompt, "--image": self.image, "--last-image": self.last_image}
        given = [f"{name}={value}" for name, value in asked.items() if value]
        return [f"--prompts={self.prompts_file}", f"--output={self.output}", *given, *sets, "--", self.config]


@dataclass(frozen=True)
class CalibrateJob:
    """A calibration that has passed every check."""

    config: JobConfig
    requests: Sequence[GenerationRequest]
    degrees: Degrees
    output: Path
    made_with: Mapping[str, Any]


def prepare_calibration(
    options: CalibrateOptions,
    ranks: int | None,
    local_ranks: int | None = None,
    rank: int | None = None,
    nodes: int | None = None,
) -> CalibrateJob:
    """Check everything before weights load or processes start; arguments as of ``launch.jobs.preparation.prepare``.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    config = resolve_model(load_job_config(options.config, options.overrides), lambda line: say(f"lockstep: {line}"))
    config = config.model_copy(update={"cache": CacheConfig(method="none")})
    tasks = [
        task
        for seed, prompt in enumerate(read_prompts(options.prompts_file))
        for task in make_tasks(
            [prompt],
            options.negative_prompt,
            [seed],
            config.sampling,
            Outputs(report=options.output),
            options.image,
            options.last_image,
        )
    ]
    degrees = preflight(config, tasks, ranks, local_ranks, rank, nodes).degrees
    if degrees.data > 1:
        raise InvalidInput(
            f"parallel.data is {degrees.data}, but a calibration runs one prompt after the other on all ranks: use 1."
        )
    if read_facts(config.model.path, config.model.single_files).boundary_timestep is not None:
        raise InvalidInput(
            f"model.path is {config.model.path}, which has two transformers, but a calibration is of one: "
            "use another method."
        )
    asked = {"request": calibrated_request(tasks[0].request)}
    made_with = json.loads(json.dumps(calibrated_for(config, config.sampling) | asked))
    return CalibrateJob(config, [task.request for task in tasks], degrees, options.output, made_with)
