"""From what was typed to a job that is known to make sense."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.checks.cache_choice import choose_cache
from engine.checks.preflight import preflight
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.models.hub import resolve_model
from engine.request import Outputs, Task, make_tasks, read_prompts
from launch.jobs.config import JobConfig, load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.process.signals import say
from parallel.degrees import Degrees


@dataclass(frozen=True)
class Job:
    """Videos to make that have passed every check, and the ranks that will make them."""

    config: JobConfig
    tasks: Sequence[Task]
    degrees: Degrees
    options: Options  # with all prompts in it
    notes: Sequence[str] = ()  # what the user should hear of before it starts
    folder: JobFolder | None = None  # of its checkpoints
    finished: Mapping[int, dict[str, Any]] = field(default_factory=dict)  # reports of videos made before it broke off
    model_path: str = ""  # as it was given: machines that find a model of the hub each have it elsewhere

    @property
    def tasks_left(self) -> list[Task]:
        """Those that are not finished."""
        return [task for index, task in enumerate(self.tasks) if index not in self.finished]

    def all_reports(self, made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of all videos in order, those that were made before as well.

        Args:
            made: the reports of the tasks that were left.
        """
        new = iter(made)
        return [self.finished.get(index) or next(new) for index in range(len(self.tasks))]

    def clean_up(self) -> None:
        """Once all files are written, nothing has to be gone on with."""
        if self.folder:
            self.folder.remove()

    @property
    def paths(self) -> list[Path]:
        """All files and folders that it reads or writes."""
        found: list[Path | None] = []
        for task in self.tasks:
            outputs, request = task.outputs, task.request
            found += [outputs.video, outputs.report, outputs.latents, outputs.checkpoint]
            found += [request.image, request.last_image]
        return [path for path in found if path is not None]


def prepare(
    options: Options,
    ranks: int | None,
    local_ranks: int | None = None,
    rank: int | None = None,
    nodes: int | None = None,
    resume: bool = False,
    elsewhere: bool = False,
) -> Job:
    """Check everything that can be checked before weights load or processes start.

    Args:
        ranks: the world size, or None for what the configured degrees multiply to, or this machine's devices
            where the layout is chosen for it.
        local_ranks: how many of them run on this machine; all if None.
        rank: this process's, or None for a launcher.
        nodes: machines that the ranks are spread over; by default as many as take ``local_ranks`` each.
        resume: go on with what an earlier run of this job has left.
        elsewhere: the ranks run on other machines, whose devices they look at themselves.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    given = load_job_config(options.config, options.settings)
    config = resolve_model(given, announce=lambda line: say(f"lockstep: {line}"))
    prompts_file = options.prompts_file
    listed = read_prompts(prompts_file) if prompts_file else ()
    paths = (options.video_path, options.report_path, options.latents)
    outputs = Outputs(*(_plain(path) if path else None for path in paths))
    folder = None
    if config.checkpoint.every or resume:
        folder = JobFolder.beside(options.video_path)
        outputs = replace(outputs, checkpoint=folder.path)
    options = replace(options, prompts=(*options.prompts, *listed), prompts_file=None, output=options.video_path)
    tasks = make_tasks(
        options.prompts,
        options.negative_prompt,
        options.seeds,
        config.sampling,
        outputs,
        options.image,
        options.last_image,
    )
    placement = preflight(config, tasks, ranks, local_ranks, rank, nodes, elsewhere)
    choice = choose_cache(config, tasks[0].request, read_facts(config.model.path, config.model.single_files))
    config = config.model_copy(update={"cache": choice.cache})
    if rank is None and placement.degrees.world_size > 1:
        for path in (options.config, prompts_file):
            _refuse_pipe(path)
    notes: list[str] = []
    if config.parallel.shard_weights and placement.degrees.replica_size == 1:
        notes.append("parallel.shard_weights changes nothing here: each replica has one rank, which holds all weights")
    if config.parallel.is_auto:
        from launch.screens.layout import explain  # imports what draws tables

        notes += explain(placement)
    notes += [f"cache: {reason}" for reason in choice.reasons]
    finished: dict[int, dict[str, Any]] = {}
    if folder and rank in (None, 0):
        folder.refuse_if_running()
    if folder and resume:
        folder.refuse_if_changed(config, tasks)
        finished = folder.finished(tasks)
        notes += [f"{len(finished)} of {len(tasks)} videos were made before"] if finished else []
    elif folder and rank in (None, 0):
        folder.refuse_if_begun()
    return Job(config, tasks, placement.degrees, options, notes, folder, finished, given.model.path)


def _refuse_pipe(path: str | Path | None) -> None:
    if path is not None and not Path(path).expanduser().is_file():
        raise InvalidInput(f"{path} is a pipe, which can be read only once, but every rank reads it: give a file.")


def _plain(path: Path) -> Path:
    """The path without "..": through a folder that does not exist yet it would be checked elsewhere than written."""
    return Path(os.path.normpath(path))
