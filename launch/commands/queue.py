"""The commands of the queue: submit, jobs, watch, cancel, pause, unpause, retry and prune."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import InvalidInput, sentence
from launch.commands import options as opt
from launch.commands.fallback import with_fallback
from launch.commands.shared import taking
from launch.commands.video_options import video_options
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.process.signals import Interrupted, say
from launch.queue.records import JobRecord, State, Wish
from launch.queue.state_folder import state_folder
from launch.queue.submissions import Submissions
from launch.queue.trouble import QueueUnusable
from launch.screens.letters import any_letters

_SHOWN = 50  # jobs, where the user does not say how many


@taking(video_options)
def submit(
    options: Options, model_check: opt.ModelCheck = True, state: opt.StateFolder = None, group: opt.Group = False
) -> int:
    """Put videos into the queue, each as a job of its own, for the gangs of `lockstep cluster up` to make."""
    from launch.jobs.checked import announce
    from launch.queue.access import prepare_state_folder
    from launch.queue.submit import prepare_jobs
    from launch.screens.job_words import hint, one_line, unserved

    queue = _queue(state)
    submitted = prepare_jobs(with_fallback(options, state), queue.claims, model_check)
    prepare_state_folder(queue.folder, group, announce)
    ids = queue.submit(submitted)
    stdout = any_letters(sys.stdout)
    for id, job in zip(ids, submitted, strict=True):
        print(f"job {id}: {one_line(str(job.options.video_path))}", file=stdout)
    for model in unserved([queue.job(ids[0])], queue.gangs()):
        say(f"lockstep: {hint(model)}")
    return 0


def jobs(
    job: opt.AnyJob = None,
    state_is: opt.StatesShown = None,
    last: opt.Last = None,
    json: opt.AsJson = False,
    state: opt.StateFolder = None,
) -> int:
    """Show the newest jobs and all gangs, or everything of one job."""
    from launch.screens.job_tables import print_jobs
    from launch.screens.jobs import print_job
    from launch.screens.jobs_json import print_jobs_json

    if job is not None and (state_is or last is not None):
        raise InvalidInput(f"--state-is and --last choose among all jobs: leave them out to see job {job}.")
    if last is not None and last < 1:
        raise InvalidInput(f"--last is {last}: give how many jobs to show, 1 or more.")
    queue, stdout, now = _queue(state), any_letters(sys.stdout), time.time()
    if json:
        ids = [queue.job(job).id] if job is not None else queue.newest(last, state_is or ())
        print_jobs_json(queue.each(ids), queue.gangs(), stdout)
    elif job is not None:
        print_job(queue.job(job), queue.gangs(), now, stdout)
    else:
        shown, left_out = _chosen(queue, state_is or (), last)
        print_jobs(shown, queue.gangs(), now, stdout, left_out)
    return 0


def _chosen(queue: Submissions, states: Sequence[State], last: int | None) -> tuple[list[JobRecord], dict[str, int]]:
    """The jobs to show, and how many of each state are left out, where the user has not said how many to show."""
    ids = queue.newest(last or _SHOWN, states)
    if last is None and not states:
        ids = sorted({*ids, *queue.newest(_SHOWN, (State.RUNNING,))})
    shown = list(queue.each(ids))
    counts = {} if last is not None else queue.counts()
    for job in shown:
        if job.state in counts:
            counts[job.state] -= 1
    return shown, {state: count for state, count in counts.items() if count > 0 and (not states or state in states)}


def prune(older_than: opt.OlderThan, dry_run: opt.DryRun = False, state: opt.StateFolder = None) -> int:
    """Remove jobs that ended long ago from the queue, and logs of gangs that did. Videos and other results stay."""
    from launch.queue.pruning import old_logs

    queue, before = _queue(state), time.time() - older_than
    gangs = [gang.name for gang in queue.gangs()]  # before the logs are listed: a new gang's log is new
    logs = old_logs(queue.folder, gangs, before)
    if dry_run:
        print(f"would remove {_counted(queue.count_ended(before), 'job')} and {_counted(len(logs), 'log')}")
        return 0
    removed = queue.remove_ended(before)
    for log in logs:
        try:
            log.unlink(missing_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"{_counted(removed, 'job')} removed, but {log} cannot be ({error.strerror}): see to its permissions."
            ) from None
    print(f"removed {_counted(removed, 'job')} and {_counted(len(logs), 'log')}")
    return 0


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def watch(job: opt.Job, state: opt.StateFolder = None) -> int:
    """Follow a job until it ends; exit code 0 if it succeeds. Ctrl-C leaves it running."""
    from launch.screens.watch import watch as follow

    queue = _queue(state)
    try:
        ended = follow(queue, job, any_letters(sys.stdout))
    except Interrupted as interrupted:
        say(f"lockstep: {interrupted}, but job {job} goes on: stop it with lockstep cancel {job}")
        return interrupted.exit_code
    return 0 if ended.state is State.SUCCEEDED else 1


def cancel(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Cancel jobs. One that runs stops at its next step. No file is left of either."""
    return _ask(jobs, lambda queue, id: queue.wish(id, Wish.CANCEL), state)


def pause(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Keep jobs from running until they are unpaused. One that runs stops at its next step."""
    return _ask(jobs, lambda queue, id: queue.wish(id, Wish.PAUSE), state)


def unpause(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Let paused jobs run."""
    return _ask(jobs, lambda queue, id: queue.wish(id, Wish.RUN), state)


def retry(jobs: opt.Jobs, state: opt.StateFolder = None) -> int:
    """Put jobs that failed or were cancelled back into the queue. Each goes on from its newest checkpoint."""
    return _ask(jobs, lambda queue, id: queue.retry(id), state)


COMMANDS = (submit, jobs, watch, cancel, pause, unpause, retry, prune)


def _ask(ids: Sequence[int], ask: Callable[[Submissions, int], None], state: Path | None) -> int:
    """Ask for the same of each job; one that refuses does not stop the others. Returns the exit code."""
    queue, stdout, code = _queue(state), any_letters(sys.stdout), 0
    for id in ids:
        try:
            ask(queue, id)
            job = queue.job(id)
            if job.state is State.CANCELLED and job.attempts:  # it was paused, or its gang has ended
                for folder in JobFolder.all_of(job.options):
                    folder.remove()
            print(f"job {id}: {_answer(job)}", file=stdout)
        except QueueUnusable:
            raise  # each further job would wait as long
        except InvalidInput as error:
            say(f"lockstep: {sentence(error)}")
            code = 2
    return code


def _answer(job: JobRecord) -> str:
    stops = job.state is State.RUNNING and job.wish is not Wish.RUN
    return f"{job.described_state}: it stops at its next step" if stops else job.described_state


def _queue(given: Path | None) -> Submissions:
    return Submissions(state_folder(given), waiting=lambda line: say(f"lockstep: {line}"))
