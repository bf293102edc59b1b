"""From the arguments of `generate` or `resume` to a checked job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.errors import InvalidInput
from engine.request import Outputs
from engine.storage.files import without_parents
from launch.jobs.checked import check_work
from launch.jobs.config import load_job_config
from launch.jobs.continuation import plan_continuation
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.like import differences_from
from launch.jobs.names import refuse_foreign_reports, with_video_names
from launch.jobs.options import Options
from launch.jobs.resuming import Resume
from parallel.place import Place


def prepare(options: Options, place: Place, resume: Resume = Resume.REFUSE) -> Job:
    """Check everything that can be checked before weights load or processes start.

    Args:
        place: of this process.
        resume: what becomes of the state that an earlier run has left.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    notes: list[str] = []
    given = load_job_config(options.config, options.settings, notes.append)
    files = (options.config, options.prompts_file)
    again = resume in (Resume.AUTO, Resume.ONLY)
    options = with_video_names(_without_parents(options.with_prompts_read()), given, again=again)
    outputs = Outputs(options.video_path, options.report_path, options.latents)
    folder, *others = JobFolder.all_of(options)
    fallback = others[0] if others else None
    outputs = replace(outputs, checkpoint=folder.path, fallback=fallback.path if fallback else None)
    tasks = options.tasks(given, outputs)
    if place.acts_for_all:
        refuse_foreign_reports(options, tasks)
    work = check_work(given, tasks, place)
    notes += differences_from(options, work.config, tasks) if place.acts_for_all else []
    if place.is_launcher and work.checked.degrees.world_size > 1:
        for path in files:
            _refuse_pipe(path)
    continuation = plan_continuation(resume, folder, fallback, work.config, tasks, place.acts_for_all)
    notes += [*work.notes, *continuation.notes]
    finished, sets_aside = continuation.finished, continuation.sets_aside
    return Job(work.config, given, tasks, options, notes, folder, fallback, finished, sets_aside)


def _without_parents(options: Options) -> Options:
    """The options with outputs that are written where they are checked, though folders are made in between."""
    return replace(
        options,
        output=options.output and without_parents(options.output),
        report=options.report and without_parents(options.report),
        latents=options.latents and without_parents(options.latents),
    )


def _refuse_pipe(path: str | Path | None) -> None:
    if path is not None and not Path(path).expanduser().is_file():
        raise InvalidInput(f"{path} is a pipe, which can be read only once, but every rank reads it: give a file.")
