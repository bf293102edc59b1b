"""What `lockstep watch` prints: one job until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from launch.queue.records import JobRecord, State
from launch.queue.submissions import Submissions
from launch.queue.trouble import QueueAway
from launch.screens import job_words as words
from launch.screens.console import draws_unicode, is_watched, make_console

_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 600.0  # with a queue that is away


def watch(queue: Submissions, id: int, stream: IO[str], look_seconds: float = _LOOK_SECONDS) -> JobRecord:
    """Show a job on ``stream`` until it ends: live on a terminal, elsewhere a line for each change.

    Returns:
        The job as it ended.

    Raises:
        InvalidInput: there is no such job.
    """
    console = make_console(stream)
    first = queue.job(id)
    for model in words.unserved([first], queue.gangs()):
        console.print(Text(words.hint(model)))
    looks = _looks(queue, first, look_seconds, lambda line: console.print(Text(line), soft_wrap=True))
    ended = _draw(looks, console) if is_watched(stream) else _tell(looks, console)
    end = f"job {id} {ended.described_state}"
    if took := words.ran(ended, ended.submitted):
        end += f" after {took}"
    console.print(Text(": ".join(filter(None, (end, words.ending(ended))))), soft_wrap=True)
    if ended.kept:
        console.print(Text(f"kept: {words.way_on(ended)}"), soft_wrap=True)
    return ended


def _draw(looks: Iterator[JobRecord], console: Console) -> JobRecord:
    """Draw the job anew for each look. Returns the last one."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for job in looks:
            live.update(_picture(job, console), refresh=True)
    return job


def _tell(looks: Iterator[JobRecord], console: Console) -> JobRecord:
    """Print a line for each change but the last. Returns the last look."""
    said = ""
    for job in looks:
        line = words.in_a_line(job)
        if line != said and not job.state.is_final:
            console.print(Text(f"job {job.id}: {line}"))
        said = line
    return job


def _looks(queue: Submissions, job: JobRecord, look_seconds: float, say: Callable[[str], None]) -> Iterator[JobRecord]:
    """The job, again and again. A queue that is away is waited for, since the job may go on meanwhile."""
    yield job
    away_since: float | None = None
    while not job.state.is_final:
        time.sleep(look_seconds)
        try:
            job = queue.job(job.id)
        except QueueAway as error:
            if away_since is None:
                away_since = time.monotonic()
                say(words.one_line(f"{error} It is tried again for {_PATIENCE_SECONDS:g} s."))
            elif time.monotonic() - away_since > _PATIENCE_SECONDS:
                raise
            continue
        if away_since is not None:
            away_since = None
            say("the queue can be used again")
        yield job


def _picture(job: JobRecord, console: Console) -> Group:
    unicode = draws_unicode(console)
    now = time.time()
    parts: list[Text] = [
        Text.assemble((f"job {job.id}", "bold"), f" {words.in_a_line(job)}"),
        Text(words.one_line(job.prompt, 500), "dim", no_wrap=True, overflow="ellipsis"),
    ]
    if drawn := words.timeline(job, unicode):
        parts.append(Text(drawn))
    times = [f"waited {words.waited(job, now)}"]
    if job.state is State.RUNNING:
        times.append(f"running for {words.ran(job, now)}")
        if job.progress and job.progress.seconds_left is not None:
            times.append(f"about {words.duration(job.progress.seconds_left)} left")
    parts.append(Text(", ".join(times)))
    return Group(*parts)
