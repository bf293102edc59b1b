"""The words in which jobs of the queue are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from launch.process.printable import printable
from launch.queue.records import GangRecord, JobRecord, State, Wish
from launch.screens.stages import stage_in_words
from launch.screens.summary import count_actions, draw_timeline


def duration(seconds: float) -> str:
    """12 s, 3:20 or 1:02:30 (hours)."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def moment(time: float | None) -> str:
    """The local date and time of unix seconds; empty for None."""
    return "" if time is None else datetime.fromtimestamp(time).astimezone().isoformat(" ", "seconds")


def waited(job: JobRecord, now: float) -> str:
    """How long a job has waited: from its submission until its newest attempt, or its end without one, or now."""
    until = next((time for time in (job.started, job.ended) if time is not None), now)
    return duration(until - job.submitted)


def ran(job: JobRecord, now: float) -> str:
    """How long the newest attempt has run, or ran; empty where there is none."""
    return "" if job.started is None else duration((job.ended or now) - job.started)


def steps(job: JobRecord) -> str:
    """How many denoise steps are done, of how many."""
    progress = job.progress
    return f"{progress.step}/{progress.total_steps}" if progress and progress.total_steps else ""


def timeline(job: JobRecord, unicode: bool) -> str:
    """Its denoise steps, drawn and counted; empty before the first."""
    if not job.progress or not job.progress.timeline:
        return ""
    actions = job.progress.actions
    return f"{draw_timeline(actions, unicode)} {count_actions('steps', actions)}"


def mishaps(job: JobRecord) -> str:
    """How often ranks or gangs were lost without ending the job; empty if never."""
    counts = (
        (job.losses, "lost gang", "lost gangs"),
        (job.restarts, "restart", "restarts"),
        (job.preemptions, "pre-emption", "pre-emptions"),
    )
    return ", ".join(f"{count} {one if count == 1 else several}" for count, one, several in counts if count)


def in_a_line(job: JobRecord) -> str:
    """The state of a job in one line, without times."""
    parts = [job.described_state]
    if job.state is State.RUNNING:
        parts = [f"{job.described_state} on {job.gang}, attempt {job.attempts}"]
        if job.progress:
            parts.append(stage_in_words(job.progress.phase))
            parts += [f"step {steps(job)}, {job.progress.skipped} skipped"] if steps(job) else []
    elif job.state is State.QUEUED and job.attempts:
        parts.append(f"after {job.attempts} attempt{'' if job.attempts == 1 else 's'}")
    parts += [mishaps(job)] if mishaps(job) else []
    return ", ".join(parts)


def ending(job: JobRecord) -> str:
    """The result of a finished job: its video, or its error."""
    if job.state is State.SUCCEEDED:
        return one_line(str(job.video))
    return one_line(job.error or "")


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return printable(" ".join(text.split()))


def unserved(jobs: Sequence[JobRecord], gangs: Sequence[GangRecord]) -> list[str]:
    """The models that waiting jobs need and no gang has loaded, in the order of the jobs."""
    served = {gang.model for gang in gangs if gang.alive}
    waiting = [job.model for job in jobs if job.state is State.QUEUED and job.wish is Wish.RUN]
    return [model for model in dict.fromkeys(waiting) if model not in served]


def hint(model: str) -> str:
    """What to do about a model that no gang has loaded."""
    return f"no gang is up for {model}: start one with lockstep cluster up CONFIG"
