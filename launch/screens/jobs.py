"""The tables of jobs and gangs: fitted to the width of a terminal, elsewhere plain and untruncated."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.queue.records import GangRecord, JobRecord, State
from launch.screens import job_words as words
from launch.screens.console import draws_unicode, make_console
from launch.screens.job_words import duration, moment, one_line
from launch.screens.stages import stage_in_words

_COLOURS = {State.RUNNING: "cyan", State.SUCCEEDED: "green", State.FAILED: "red"}
_WIDEST = 1_000_000  # columns, where the output is no terminal


def print_jobs(jobs: Sequence[JobRecord], gangs: Sequence[GangRecord], now: float, stream: IO[str]) -> None:
    """Print a table of all jobs, then one of all gangs.

    Args:
        now: unix seconds.
    """
    console = make_console(stream)
    tables = [_job_table(jobs, gangs, now)] if jobs else []
    tables += [_gang_table(gangs, now)] if gangs else []
    if not jobs:
        console.print("no jobs")
    for index, table in enumerate(tables):
        if index or not jobs:
            console.print()
        _print(table, console)
    for model in words.unserved(jobs, gangs):
        console.print()
        console.print(Text(words.hint(model)))


def print_job(job: JobRecord, gangs: Sequence[GangRecord], now: float, stream: IO[str]) -> None:
    """Print everything about one job; empty lines are left out.

    Args:
        now: unix seconds.
    """
    console = make_console(stream)
    options, progress = job.options, job.progress
    lines = [
        ("job", str(job.id)),
        ("state", job.described_state),
        ("error", job.error or ""),
        ("prompt", job.prompt),
        ("negative", options.negative_prompt),
        ("seed", str(options.seeds[0])),
        ("image", str(options.image or "")),
        ("last image", str(options.last_image or "")),
        ("video", str(job.video)),
        ("report", str(options.report_path)),
        ("latents", str(options.latents or "")),
        ("model", job.model),
        ("config", options.config),
        ("submitted", moment(job.submitted)),
        ("started", moment(job.started)),
        ("ended", moment(job.ended)),
        ("waited", words.waited(job, now)),
        ("ran", words.ran(job, now)),
        ("gang", _gang(job, gangs)),
        ("attempts", str(job.attempts)),
        ("mishaps", words.mishaps(job)),
        ("phase", stage_in_words(progress.phase) if progress and not job.state.is_final else ""),
        ("step", words.steps(job)),
        ("timeline", words.timeline(job, draws_unicode(console))),
        ("left", _left(job)),
    ]
    for label, value in lines:
        if value:
            console.print(Text.assemble((f"{label:<11}", "bold"), one_line(value)), soft_wrap=True)  # paths stay whole
    for model in words.unserved([job], gangs):
        console.print(Text(words.hint(model)))


def _job_table(jobs: Sequence[JobRecord], gangs: Sequence[GangRecord], now: float) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in ("job", "state", "prompt", "step", "attempts", "waited", "ran", "gang", "error"):
        shortened = name in ("prompt", "error")  # the others are short, and would be useless when truncated
        table.add_column(
            name,
            justify="right" if name in ("job", "step", "attempts", "waited", "ran") else "left",
            overflow="ellipsis" if shortened else "fold",
            no_wrap=shortened,
        )
    for job in jobs:
        table.add_row(
            str(job.id),
            Text(job.described_state, _COLOURS.get(job.state, "")),
            Text(one_line(job.prompt)),
            words.steps(job),
            str(job.attempts),
            words.waited(job, now),
            words.ran(job, now),
            _gang(job, gangs),
            Text(one_line(job.error or "")),
        )
    return table


def _gang_table(gangs: Sequence[GangRecord], now: float) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in ("gang", "state", "ranks", "model", "host", "heard of", "error"):
        table.add_column(name, justify="right" if name == "ranks" else "left", overflow="fold")
    for gang in gangs:
        state = gang.state.value if gang.alive else "lost"
        heard = f"{duration(now - gang.beat)} ago"
        error = Text(one_line(gang.error or ""))
        table.add_row(gang.name, state, str(gang.ranks), Text(gang.model), Text(gang.host), heard, error)
    return table


def _print(table: Table, console: Console) -> None:
    if console.is_terminal:
        console.print(table)
        return
    # as wide as needed, without the spaces that pad a row
    plain = Console(file=io.StringIO(), width=_WIDEST, color_system=None)
    table.box = None
    table.padding = (0, 2, 0, 0)
    with plain.capture() as capture:
        plain.print(table)
    for line in capture.get().splitlines():
        console.print(Text(line.rstrip()))


def _gang(job: JobRecord, gangs: Sequence[GangRecord]) -> str:
    if job.state is State.RUNNING and job.gang not in {gang.name for gang in gangs if gang.alive}:
        return f"{job.gang} (lost)"
    return job.gang or ""


def _left(job: JobRecord) -> str:
    seconds = job.progress.seconds_left if job.progress and job.state is State.RUNNING else None
    return "" if seconds is None else duration(seconds)
