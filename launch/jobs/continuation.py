"""What a run takes over from an earlier run of the same command: found, compared, and put into words."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checkpoints.match import describe_model, differences, job_fingerprint, must_match, written_under
from engine.checkpoints.names import DONE
from engine.config import Config
from engine.errors import InvalidInput
from engine.request import Task
from launch.jobs.folder import JobFolder
from launch.jobs.reports import read_report
from launch.jobs.resuming import Resume, known_restart

_DYING_SECONDS = 30
"""How long the processes of the run that a scheduler has ended may hold the folder."""


@dataclass(frozen=True)
class Continuation:
    """What a run takes over."""

    finished: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    """Reports of videos that are made already, by the index of the task."""
    sets_aside: bool = False
    """The folder holds another job, or one that is not to be continued: it is renamed before this one begins."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def plan_continuation(
    resume: Resume,
    folder: JobFolder,
    fallback: JobFolder | None,
    config: Config,
    tasks: Sequence[Task],
    acts_for_all: bool,
) -> Continuation:
    """Decide what becomes of the state that an earlier run has left.

    Args:
        folder: of the job's checkpoints. fallback: of those that its disk did not take.
        config: with nothing left open.
        acts_for_all: this process does what is done once for a run, and refuses for all.

    Raises:
        InvalidInput: it cannot be continued, or must not be replaced.
    """
    restart = known_restart(os.environ)
    if acts_for_all:
        if restart:
            folder.await_end(_DYING_SECONDS)
        else:
            folder.refuse_if_running()
    if acts_for_all:
        folder.refuse_if_foreign()
    match resume:
        case Resume.REFUSE:
            if acts_for_all:
                folder.refuse_if_begun(also_without_state=config.checkpoint.every > 0)
                if fallback:
                    fallback.refuse_if_begun(also_without_state=False)
            return Continuation()
        case Resume.NEVER:
            held = [each for each in (folder, fallback) if each and each.holds_state]
            notes = tuple(_kept(each, "is not continued, as --resume=never says") for each in held)
            return Continuation(sets_aside=bool(held), notes=notes)
        case Resume.FOLDER:
            folder.refuse_if_changed(config, tasks)
            finished = folder.finished(tasks)
            return Continuation(finished, notes=_made_before(finished, tasks))
    return _find(resume, folder, config, tasks, restart)


def _find(
    resume: Resume, folder: JobFolder, config: Config, tasks: Sequence[Task], restart: str | None
) -> Continuation:
    """What ``auto`` and ``only`` go on with."""
    model = describe_model(config.model)
    finished = {i: report for i, task in enumerate(tasks) if (report := _finished(task, config, model))}
    left = [task for i, task in enumerate(tasks) if i not in finished]
    notes = _made_before(finished, tasks)
    again = f"{restart}, so " if restart else ""
    if difference := _difference(left, config, model):
        if resume is Resume.ONLY:
            raise InvalidInput(
                f"--resume is only, but {folder.path} holds another job, for {difference}: give that one's options, "
                "or another --output."
            )
        return Continuation(finished, True, (*notes, _kept(folder, f"is another job, for {difference}")))
    if not left:
        return Continuation(finished, notes=notes)
    if any(written_under(task.outputs.checkpoints) for task in left):
        return Continuation(finished, notes=(*notes, f"{again}the run goes on from {folder.path}"))
    why = "checkpoint.every is 0" if not config.checkpoint.every else f"there is no checkpoint in {folder.path}"
    if resume is Resume.ONLY and not finished:
        raise InvalidInput(
            f"--resume is only, but there is nothing to go on from, for {why}: run it with --resume auto."
        )
    if restart and not finished:
        notes = (*notes, f"{again}the run would go on, but {why}: it begins anew")
    elif not config.checkpoint.every:
        notes = (
            *notes,
            "checkpoint.every is 0: a run that is restarted goes on from whole videos and final latents alone",
        )
    return Continuation(finished, notes=notes)


def _finished(task: Task, config: Config, model: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a task whose files are all written, by this very job."""
    outputs = task.outputs
    kept = outputs.checkpoint / DONE if outputs.checkpoint else None
    for file in filter(None, (kept, outputs.report)):
        report = read_report(file)
        if (
            report.get("fingerprint")
            and report["fingerprint"] == job_fingerprint(config, task.request, model)
            and _is_written(outputs.video, report)
            and (outputs.latents is None or outputs.latents.is_file())
        ):
            return report
    return None


def _is_written(video: Path | None, report: Mapping[str, Any]) -> bool:
    """Whether the video is the file that the report is about, as its size tells: another may have taken its place."""
    if video is None:
        return True
    try:
        (written,) = report["output"]["videos"]
        return bool(video.stat().st_size == written["bytes"])
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _difference(tasks: Sequence[Task], config: Config, model: Mapping[str, Any]) -> str | None:
    """In what the checkpoints of the tasks, or videos that were finished in their place, are not these tasks'."""
    for task in tasks:
        before = written_under(task.outputs.checkpoints)
        if before is not None and (changed := differences(before, must_match(config, task.request, model))):
            return _short(changed[0])
        folder = task.outputs.checkpoint
        report = read_report(folder / DONE) if folder else {}
        if report.get("fingerprint") not in (None, job_fingerprint(config, task.request, model) if report else None):
            request = report.get("request", {})
            prompt = _short(repr(request.get("prompt")))
            return f"it has finished the video of seed {request.get('seed')} and prompt {prompt}"
    return None


def _made_before(finished: Mapping[int, Any], tasks: Sequence[Task]) -> tuple[str, ...]:
    return (f"{len(finished)} of {len(tasks)} videos were made before",) if finished else ()


def _kept(folder: JobFolder, why: str) -> str:
    return f"what is in {folder.path} {why}: it is kept as {folder.aside}, and the run begins anew"


def _short(text: str) -> str:
    return textwrap.shorten(text, 200, placeholder=" …")
