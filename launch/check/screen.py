"""The report of a check as a person reads it."""

from __future__ import annotations

from typing import IO

from rich import box
from rich.table import Table
from rich.text import Text

from launch.check.document import CheckDocument
from launch.check.finding import State
from launch.screens.console import make_console

_STYLES = {State.HOLDS: "green", State.FALLS_SHORT: "bold red", State.NOT_HERE: "dim"}


def print_check(document: CheckDocument, stream: IO[str]) -> None:
    """Print a table with a row for each line, and what it comes to."""
    console = make_console(stream)
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in ("line", "state", "figure", "reason"):
        table.add_column(name, overflow="fold", no_wrap=False)
    for line in document.lines:
        table.add_row(
            Text(line.name), Text(line.state.value, style=_STYLES[line.state]), Text(line.figure), Text(line.reason)
        )
    console.print(table)
    console.print(Text(_summary(document)))


def _summary(document: CheckDocument) -> str:
    counts = {state: sum(line.state is state for line in document.lines) for state in State}
    said = ", ".join(f"{count} {_plural(state, count)}" for state, count in counts.items() if count)
    ranks = f"{document.ranks} rank{'s' if document.ranks > 1 else ''} on {document.nodes} machine"
    return f"{said}; {ranks}{'s' if document.nodes > 1 else ''}, {document.seconds:.0f} s"


def _plural(state: State, count: int) -> str:
    several = {State.HOLDS: "hold", State.FALLS_SHORT: "fall short", State.NOT_HERE: "are not here"}
    one = {State.HOLDS: "holds", State.FALLS_SHORT: "falls short", State.NOT_HERE: "is not here"}
    return (one if count == 1 else several)[state]
