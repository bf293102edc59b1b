"""The tables of jobs and gangs: fitted to the width of a terminal; elsewhere every column, with long text cut."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.queue.records import GangRecord, JobRecord, State
from launch.screens import job_words as words
from launch.screens.columns import GAP, Column, fit
from launch.screens.console import make_console
from launch.screens.job_words import duration, one_line

_COLOURS = {State.RUNNING: "cyan", State.SUCCEEDED: "green", State.FAILED: "red"}
_WIDEST = 1_000_000  # columns, where the output is no terminal
_PROMPT, _MESSAGE, _NAME = 200, 1000, 100  # letters of a prompt, an error, a model or host that any table shows


def print_jobs(
    jobs: Sequence[JobRecord],
    gangs: Sequence[GangRecord],
    now: float,
    stream: IO[str],
    left_out: Mapping[str, int] | None = None,
) -> None:
    """Print a table of jobs, then one of all gangs.

    Args:
        now: unix seconds.
        left_out: how many jobs of each state there are besides.
    """
    console = make_console(stream)
    if not jobs:
        console.print("no jobs")
    else:
        _print(_job_columns(jobs, gangs, now), console)
    if left_out:
        counts = ", ".join(f"{count} {one_line(str(state), 20)}" for state, count in left_out.items())
        console.print(Text(f"and older ones: {counts}; see them with --last N or --state-is STATE"))
    if gangs:
        console.print()
        _print(_gang_columns(gangs, now), console)
    for model in words.unserved(jobs, gangs):
        console.print()
        console.print(Text(words.hint(model)))


def _job_columns(jobs: Sequence[JobRecord], gangs: Sequence[GangRecord], now: float) -> list[Column]:
    def texts(values: Sequence[str]) -> list[Text]:
        return [Text(value) for value in values]

    states = [Text(job.described_state, "red" if job.damage else _COLOURS.get(job.state, "")) for job in jobs]
    errors = [Text(one_line(words.error_of(job), _MESSAGE)) for job in jobs]
    return [
        Column("job", texts([str(job.id) for job in jobs]), right=True),
        Column("state", states),
        Column("step", texts([words.steps(job) for job in jobs]), right=True),
        Column("prompt", [Text(one_line(job.prompt, _PROMPT)) for job in jobs], order=1, least=12),
        Column("attempts", texts([str(job.attempts) for job in jobs]), right=True, order=6),
        Column("waited", texts([words.waited(job, now) for job in jobs]), right=True, order=4),
        Column("ran", texts([words.ran(job, now) for job in jobs]), right=True, order=3),
        Column("gang", texts([one_line(words.gang_of(job, gangs), _NAME) for job in jobs]), order=5),
        Column("error", errors, order=2, least=20),
    ]


def _gang_columns(gangs: Sequence[GangRecord], now: float) -> list[Column]:
    return [
        Column("gang", [Text(gang.name) for gang in gangs]),
        Column("state", [Text(gang.state.value if gang.alive else "lost") for gang in gangs]),
        Column("ranks", [Text(str(gang.ranks)) for gang in gangs], right=True),
        Column("model", [Text(one_line(gang.model, _NAME)) for gang in gangs], order=1, least=16),
        Column("host", [Text(one_line(gang.host, _NAME)) for gang in gangs], order=3, least=10),
        Column("heard of", [Text(f"{duration(now - gang.beat)} ago") for gang in gangs], order=2),
        Column("error", [Text(one_line(gang.error or "", _MESSAGE)) for gang in gangs], order=4, least=24),
    ]


def _print(columns: Sequence[Column], console: Console) -> None:
    if console.is_terminal:
        console.print(_table(fit(columns, console.width)))
        return
    # as wide as needed, without the spaces that pad a row
    plain = Console(file=io.StringIO(), width=_WIDEST, color_system=None)
    with plain.capture() as capture:
        plain.print(_table([(column, column.natural) for column in columns]))
    for line in capture.get().splitlines():
        console.print(Text(line.rstrip()))


def _table(fitted: Sequence[tuple[Column, int]]) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for column, width in fitted:
        whole = column.order == 0  # on a terminal that is narrower than these columns they are folded, not cut
        table.add_column(
            column.name,
            width=width,
            justify="right" if column.right else "left",
            overflow="fold" if whole else "ellipsis",
            no_wrap=not whole,
        )
    for row in zip(*(column.cells for column, _ in fitted), strict=True):
        table.add_row(*row)
    return table
