"""The words in which jobs of the queue are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from launch.process.printable import printable
from launch.queue.records import GangRecord, GangReturn, JobRecord, State
from launch.screens.stages import stage_in_words
from launch.screens.summary import count_actions, draw_timeline

LONGEST = 2000
"""Characters of any one text of a job that a screen shows; ``lockstep jobs --json`` has all of it."""
_READ = 20_000  # characters at each end of a text that are looked at


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
        (len(job.returns), "return by a gang", "returns by gangs"),
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
    return one_line(", ".join(parts))


def ending(job: JobRecord) -> str:
    """The result of a finished job: its video, or its error."""
    if job.state is State.SUCCEEDED:
        return one_line(str(job.video))
    return one_line(error_of(job))


def way_on(job: JobRecord) -> str:
    """What a job that failed or was cancelled has left, and how to go on with it; empty for any other."""
    if job.state not in (State.FAILED, State.CANCELLED) or job.damage:
        return ""
    if job.kept:
        return f"{job.kept}: go on with lockstep retry {job.id}"
    return f"nothing: lockstep retry {job.id} begins anew" if job.state is State.FAILED else ""


def returned(each: GangReturn) -> str:
    """That a gang gave a job back, and why."""
    return f"by {each.gang} on {each.host} at {moment(each.at)}: {each.reason}"


def one_line(text: str, length: int = LONGEST) -> str:
    """The text in one line of at most ``length`` characters, without control characters. Its middle is left out if it
    is longer: prompts, errors and paths may be as long as a book, and lists have to be drawn twice a second."""
    if len(text) > _READ * 2:
        text = f"{text[:_READ]}…{text[-_READ:]}"
    return printable(" ".join(text.split()), length)


def error_of(job: JobRecord) -> str:
    """Why a job failed, or what of it cannot be read; empty if nothing is wrong."""
    return job.error or (f"damaged in the queue: {job.damage}" if job.damage else "")


def gang_of(job: JobRecord, gangs: Sequence[GangRecord]) -> str:
    """The gang of the newest attempt, and whether it was lost."""
    if job.state is State.RUNNING and job.gang not in {gang.name for gang in gangs if gang.alive}:
        return f"{job.gang} (lost)"
    return job.gang or ""


def left(job: JobRecord) -> str:
    """How long a running job will denoise, where that is known."""
    seconds = job.progress.seconds_left if job.progress and job.state is State.RUNNING else None
    return "" if seconds is None else duration(seconds)


def unserved(jobs: Sequence[JobRecord], gangs: Sequence[GangRecord]) -> list[str]:
    """The models that waiting jobs need and no gang has loaded, in the order of the jobs."""
    served = {gang.model for gang in gangs if gang.alive}
    waiting = [job.model for job in jobs if job.described_state == State.QUEUED]
    return [model for model in dict.fromkeys(waiting) if model not in served]


def hint(model: str) -> str:
    """What to do about a model that no gang has loaded."""
    return f"no gang is up for {one_line(model, 200)}: start one with lockstep cluster up CONFIG"
