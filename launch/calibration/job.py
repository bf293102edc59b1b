"""From the arguments of `lockstep calibrate` to a checked job."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dicache.config import CacheConfig
from engine.checkpoints.match import calibrated_for, calibrated_request
from engine.errors import InvalidInput
from engine.request import GenerationRequest, Outputs, Task
from launch.jobs.by_line import LineOptions, images_of, refuse_replicas, without_outputs
from launch.jobs.checked import check_work
from launch.jobs.config import JobConfig, load_job_config
from parallel.place import Place

CalibrateOptions = LineOptions


@dataclass(frozen=True)
class CalibrateJob:
    """A calibration that has passed all checks."""

    config: JobConfig
    given: JobConfig
    """As it was read."""
    requests: Sequence[GenerationRequest]
    output: Path
    made_with: Mapping[str, Any]
    notes: Sequence[str] = ()
    """Lines for the user, before it starts."""

    @property
    def partial(self) -> Path:
        """The folder of its measurements until the output is written, beside which it stands."""
        return self.output.with_suffix(".partial")

    @property
    def owned(self) -> Sequence[Path]:
        """All that it writes."""
        return [self.output, self.partial]

    @property
    def inputs(self) -> Sequence[Path]:
        """The files that its ranks read."""
        return images_of(self.requests)

    def settled(self, settle: Callable[[JobConfig, Sequence[Task]], JobConfig]) -> CalibrateJob:
        """The same for the ranks of another machine, with the configuration that ``settle`` makes."""
        return replace(self, config=settle(self.config, without_outputs(self.requests)))

    def writing_to(self, output: Path) -> CalibrateJob:
        """The same with another file of results."""
        return replace(self, output=output)


def prepare_calibration(options: CalibrateOptions, place: Place) -> CalibrateJob:
    """Check everything before weights load or processes start.

    Args:
        place: of this process.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    notes: list[str] = []
    given = load_job_config(options.config, options.overrides, notes.append)
    uncached = given.model_copy(update={"cache": CacheConfig(method="none")})
    tasks = options.tasks(uncached, Outputs(report=options.output))
    work = check_work(uncached, tasks, place)
    config = work.config
    refuse_replicas(config, "a calibration runs one prompt after the other on all ranks")
    if work.checked.facts.boundary_timestep is not None:
        raise InvalidInput(
            f"model.path is {config.model.path}, which has two transformers, but a calibration is of one: "
            "use another method."
        )
    asked = {"request": calibrated_request(tasks[0].request)}
    made_with = json.loads(json.dumps(calibrated_for(config, config.sampling) | asked))
    notes += work.checked.notes
    return CalibrateJob(config, given, [task.request for task in tasks], options.output, made_with, notes)
