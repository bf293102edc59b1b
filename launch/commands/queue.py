"""The commands of the queue: submit, jobs, watch, cancel, pause and unpause."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from engine.errors import InvalidInput, sentence
from launch.commands import options as opt
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.process.signals import Interrupted, say
from launch.queue.records import JobRecord, State, Wish
from launch.queue.state_folder import state_folder
from launch.queue.submissions import Submissions


@opt.taking(opt.video_options)
def submit(options: Options, state: opt.StateFolder = None, group: opt.Group = False) -> int:
    """Put videos into the queue, each as a job of its own, for the gangs of `lockstep cluster up` to make."""
    from launch.jobs.checked import announce
    from launch.queue.access import prepare_state_folder
    from launch.queue.submit import prepare_jobs
    from launch.screens.job_words import hint, one_line, unserved

    queue = _queue(state)
    submitted = prepare_jobs(options, queue.claims)
    prepare_state_folder(queue.folder, group, announce)
    ids = queue.submit(submitted)
    stdout = _stdout()
    for id, job in zip(ids, submitted, strict=True):
        print(f"job {id}: {one_line(str(job.options.video_path))}", file=stdout)
    for model in unserved([queue.job(ids[0])], queue.gangs()):
        say(f"lockstep: {hint(model)}")
    return 0


def jobs(job: opt.AnyJob = None, state: opt.StateFolder = None) -> int:
    """Show all jobs and gangs, or everything of one job."""
    from launch.screens.jobs import print_job, print_jobs

    queue = _queue(state)
    if job is None:
        print_jobs(queue.jobs(), queue.gangs(), time.time(), _stdout())
    else:
        print_job(queue.job(job), queue.gangs(), time.time(), _stdout())
    return 0


def watch(job: opt.Job, state: opt.StateFolder = None) -> int:
    """Follow a job until it ends; exit code 0 if it succeeds. Ctrl-C leaves it running."""
    from launch.screens.watch import watch as follow

    queue = _queue(state)
    try:
        ended = follow(queue, job, _stdout())
    except Interrupted as interrupted:
        say(f"lockstep: {interrupted}, but job {job} goes on: stop it with lockstep cancel {job}")
        return interrupted.exit_code
    return 0 if ended.state is State.SUCCEEDED else 1


def cancel(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Cancel jobs. One that runs stops at its next step. No file is left of either."""
    return _ask(jobs, Wish.CANCEL, state)


def pause(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Keep jobs from running until they are unpaused. One that runs stops at its next step."""
    return _ask(jobs, Wish.PAUSE, state)


def unpause(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Let paused jobs run."""
    return _ask(jobs, Wish.RUN, state)


COMMANDS = (submit, jobs, watch, cancel, pause, unpause)


def _ask(ids: Sequence[int], wish: Wish, state: Path | None) -> int:
    """Ask for the same of each job; one that refuses does not stop the others. Returns the exit code."""
    queue, stdout, code = _queue(state), _stdout(), 0
    for id in ids:
        try:
            queue.wish(id, wish)
            job = queue.job(id)
            if job.state is State.CANCELLED and job.attempts:  # it was paused, or its gang has ended
                JobFolder.beside(job.video).remove()
            print(f"job {id}: {_answer(job)}", file=stdout)
        except InvalidInput as error:
            say(f"lockstep: {sentence(error)}")
            code = 2
    return code


def _answer(job: JobRecord) -> str:
    stops = job.state is State.RUNNING and job.wish is not Wish.RUN
    return f"{job.described_state}: it stops at its next step" if stops else job.described_state


def _queue(given: Path | None) -> Submissions:
    return Submissions(state_folder(given), waiting=lambda line: say(f"lockstep: {line}"))


def _stdout() -> IO[str]:
    """For names of files, and prompts, in whatever letters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return sys.stdout
