"""From the arguments of `generate` or `resume` to a checked job."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.request import Outputs
from launch.jobs.checked import check_work
from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.options import Options
from parallel.place import Place


def prepare(options: Options, place: Place, resume: bool = False) -> Job:
    """Check everything that can be checked before weights load or processes start.

    Args:
        place: of this process.
        resume: go on with what an earlier run of this job has left.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    notes: list[str] = []
    given = load_job_config(options.config, options.settings, notes.append)
    paths = (options.video_path, options.report_path, options.latents)
    outputs = Outputs(*(_plain(path) if path else None for path in paths))
    folder = None
    if given.checkpoint.every or resume:
        folder = JobFolder.beside(options.video_path)
        outputs = replace(outputs, checkpoint=folder.path)
    files = (options.config, options.prompts_file)
    options = replace(options, prompts=options.all_prompts(), prompts_file=None, output=options.video_path)
    tasks = options.tasks(given, outputs)
    work = check_work(given, tasks, place)
    if place.is_launcher and work.checked.degrees.world_size > 1:
        for path in files:
            _refuse_pipe(path)
    notes += work.notes
    finished: dict[int, dict[str, Any]] = {}
    if folder and place.acts_for_all:
        folder.refuse_if_running()
    if folder and resume:
        folder.refuse_if_changed(work.config, tasks)
        finished = folder.finished(tasks)
        notes += [f"{len(finished)} of {len(tasks)} videos were made before"] if finished else []
    elif folder and place.acts_for_all:
        folder.refuse_if_begun()
    return Job(work.config, given, tasks, options, notes, folder, finished)


def _refuse_pipe(path: str | Path | None) -> None:
    if path is not None and not Path(path).expanduser().is_file():
        raise InvalidInput(f"{path} is a pipe, which can be read only once, but every rank reads it: give a file.")


def _plain(path: Path) -> Path:
    """The path without "..": through a folder that does not exist yet it would be checked elsewhere than written."""
    return Path(os.path.normpath(path))
