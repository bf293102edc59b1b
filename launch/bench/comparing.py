"""`lockstep bench --compare`: from two names to a table, a report and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.table import Table
from rich.text import Text

from engine.storage.files import StagedFiles
from launch.bench.compare import compare, compare_against
from launch.bench.comparison import Comparison, Row
from launch.bench.reading import read_document
from launch.bench.tables import bytes_text, seconds, table
from launch.process.printable import printable
from launch.screens.console import draws_unicode, make_console

_COLOURS = {"faster": "green", "slower": "red"}


def compare_results(a: Path, b: Path, slower_by: float, report: Path | None, stream: IO[str]) -> int:
    """Compare two results, print the comparison, and write it to ``report`` (JSON) if there is one.

    Args:
        a, b: files, or folders of a bench. One and the same compares the two configurations of a run with `--against`.

    Returns:
        The exit code: 1 where B is slower beyond the noise by more than ``slower_by``, else 0.

    Raises:
        InvalidInput: a file has no results, or the two cannot be compared.
        OSError: the report cannot be written.
    """
    first = read_document(a)
    if a.resolve() == b.resolve():
        found = compare_against(first, slower_by)
    else:
        found = compare(first, read_document(b), slower_by, (str(a), str(b)))
    print_comparison(found, stream)
    if report is not None:
        with StagedFiles() as files:
            files.stage(report).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return int(found.is_slower)


def print_comparison(comparison: Comparison, stream: IO[str]) -> None:
    """Print the table of a comparison, its notes and what it comes to."""
    console = make_console(stream)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(("", "A", "B", "B / A", "noise", "")):
        shown.add_column(name, justify="right" if 0 < number < 5 else "left", no_wrap=True)
    for row in comparison.rows:
        *cells, verdict = _cells(row, "–" if draws_unicode(console) else "-")
        shown.add_row(*map(Text, cells), Text(verdict, _COLOURS.get(verdict, "")))
    console.print(Text(printable(f"A  {comparison.a}")))
    console.print(Text(printable(f"B  {comparison.b}")))
    console.print(shown)
    for line in (*comparison.notes, conclusion(comparison)):
        console.print(Text(printable(line)))


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    lines = [f"A is {comparison.a}, B is {comparison.b}.", ""]
    lines += table(("", "A", "B", "B / A", "noise", ""), (_cells(row, "–") for row in comparison.rows))
    lines += ["", *(f"- {line}" for line in comparison.notes), *_paragraph(conclusion(comparison))]
    return "\n".join(lines) + "\n"


def conclusion(comparison: Comparison) -> str:
    """One sentence: whether B is slower than is allowed."""
    by_name = {row.name: row for row in comparison.rows}
    if comparison.is_slower:
        row = max((by_name[name] for name in comparison.slower), key=lambda row: row.ratio or 0)
        more = (row.ratio or 1) - 1
        return f"B is slower beyond the noise: {row.name}, by {more:.1%}, where {comparison.slower_by:.1%} is allowed."
    if comparison.rows and comparison.rows[0].verdict == "not judged":
        return "Whether B is slower is not known: there are too few rounds."
    if comparison.rows and comparison.rows[0].verdict == "faster":
        return f"B is faster beyond the noise, by {1 - (comparison.rows[0].ratio or 1):.1%} of a video."
    return f"B is not slower by more than {comparison.slower_by:.1%} beyond the noise."


def _paragraph(text: str) -> Iterator[str]:
    yield ""
    yield text


def _cells(row: Row, dash: str) -> tuple[str, str, str, str, str, str]:
    values = [_value(each, row.unit) for each in (row.a, row.b)]
    ratio = dash if row.ratio is None else f"{row.ratio:.3f}"
    noise = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    return row.name, values[0], values[1], ratio, noise, row.verdict


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return seconds(value)
    return bytes_text(value) if unit == "bytes" else f"{value:.4g}"
