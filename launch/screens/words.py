"""Jobs in words, as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from launch.queue.records import GangRecord, JobRecord, State, Wish
from launch.screens.console import count_actions, draw_timeline, stage_in_words


def duration(seconds: float) -> str:
    """12 s, 3:20 or 1:02:30 (hours)."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def moment(time: float | None) -> str:
    """A date and time of day, here; nothing for what has not happened."""
    return "" if time is None else datetime.fromtimestamp(time).astimezone().isoformat(" ", "seconds")


def waited(job: JobRecord, now: float) -> str:
    """From its submission until the newest attempt, or its end without one, or now."""
    until = next((time for time in (job.started, job.ended) if time is not None), now)
    return duration(until - job.submitted)


def ran(job: JobRecord, now: float) -> str:
    """The newest attempt; nothing where there is none."""
    return "" if job.started is None else duration((job.ended or now) - job.started)


def steps(job: JobRecord) -> str:
    """Those that are done, of how many."""
    progress = job.progress
    return f"{progress.step}/{progress.total_steps}" if progress and progress.total_steps else ""


def timeline(job: JobRecord, unicode: bool) -> str:
    """Its steps drawn and counted; nothing before the first."""
    if not job.progress or not job.progress.timeline:
        return ""
    actions = job.progress.actions
    return f"{draw_timeline(actions, unicode)} {count_actions('steps', actions)}"


def mishaps(job: JobRecord) -> str:
    """What went wrong without ending it; nothing where nothing did."""
    counts = (
        (job.losses, "lost gang", "lost gangs"),
        (job.restarts, "restart", "restarts"),
        (job.preemptions, "pre-emption", "pre-emptions"),
    )
    return ", ".join(f"{count} {one if count == 1 else several}" for count, one, several in counts if count)


def in_a_line(job: JobRecord) -> str:
    """Where a job is, but for what changes with every look at it."""
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
    """Of a job that is finished: what came of it."""
    if job.state is State.SUCCEEDED:
        return one_line(str(job.video))
    return one_line(job.error or "")


def one_line(text: str) -> str:
    """Without line breaks, and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def unserved(jobs: Sequence[JobRecord], gangs: Sequence[GangRecord]) -> list[str]:
    """Models of jobs that wait, for which no gang is up; in the order of the jobs."""
    served = {gang.model for gang in gangs if gang.alive}
    waiting = [job.model for job in jobs if job.state is State.QUEUED and job.wish is Wish.RUN]
    return [model for model in dict.fromkeys(waiting) if model not in served]


def hint(model: str) -> str:
    return f"no gang is up for {model}: start one with lockstep cluster up CONFIG"
