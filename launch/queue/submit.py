"""From the arguments of `lockstep submit` to checked jobs for the queue."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.checks.outputs import check_outputs
from engine.request import Outputs, Task
from engine.storage.files import absolute
from launch.jobs.checked import announce, check_work
from launch.jobs.config import JobConfig, load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.like import differences_from
from launch.jobs.names import refuse_foreign_reports, with_video_names
from launch.jobs.options import Options
from launch.queue.records import NewJob
from parallel.config import ParallelConfig
from parallel.place import Place


def prepare_jobs(options: Options, claimed: Callable[[Path], bool], model_check: bool = True) -> list[NewJob]:
    """One job for each video, that is for every prompt with every seed. Everything is checked but what depends on the
    gang: ranks, layout and devices.

    Args:
        claimed: whether a job that is not finished will write that file.
        model_check: find the model, and check what depends on it; else only gangs do.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    given = load_job_config(options.config, options.settings, announce)

    def taken(path: Path) -> bool:
        return os.path.lexists(path) or claimed(absolute(path))

    whole = _in_full(with_video_names(options.with_prompts_read(), given, taken))
    tasks = whole.tasks(given, Outputs(whole.video_path, whole.report_path, whole.latents))
    refuse_foreign_reports(options, tasks)
    for video in (task.outputs.video for task in tasks):
        folder = JobFolder.beside(video or whole.video_path)
        folder.refuse_if_running()
        folder.refuse_if_begun(also_without_state=given.checkpoint.every > 0)
    if not model_check:
        for task in tasks:
            check_outputs(task.outputs, Path(given.model.path))
        return [_new_job(whole, given, task) for task in tasks]
    anywhere = given.model_copy(update={"parallel": ParallelConfig()})
    work = check_work(anywhere, tasks, Place(1, elsewhere=True))
    for line in (*work.checked.notes, *differences_from(options, work.config, tasks)):
        announce(line)
    return [_new_job(whole, given, task) for task in tasks]


def _in_full(options: Options) -> Options:
    """With absolute paths, since a gang has another working directory."""
    return replace(
        options,
        config=str(absolute(Path(options.config).expanduser())),
        image=options.image and absolute(options.image),
        last_image=options.last_image and absolute(options.last_image),
        output=options.output and absolute(options.output),
        report=options.report and absolute(options.report),
        videos=tuple(map(absolute, options.videos)),
        latents=options.latents and absolute(options.latents),
        fallback=options.fallback and absolute(options.fallback),
    )


def _new_job(options: Options, config: JobConfig, task: Task) -> NewJob:
    request, outputs = task.request, task.outputs
    alone = replace(
        options,
        prompts=request.prompts,
        seeds=(request.seed,),
        output=outputs.video if outputs.replaces else None,
        videos=(outputs.video,) if not outputs.replaces and outputs.video else (),
        report=outputs.report,
        latents=outputs.latents,
        audit=False,  # it is in config, as all other settings are
        overrides=(),
        like=None,
    )
    return NewJob(alone, config.model_dump(mode="json"))
