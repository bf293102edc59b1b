"""What a person sees: progress on stderr while it runs, a short summary on stdout at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from engine.progress import Progress

_STAGES = {
    "start": "starting",
    "join": "joining ranks",
    "load": "loading weights",
    "encode": "encoding prompt",
    "denoise": "denoising",
    "decode": "decoding video",
    "write": "writing files",
    "refine": "trying lists of steps",
    "wait": "waiting for other replicas",
}
_SECONDS = ("load", "encode", "denoise", "decode", "write", "total")


def stage_in_words(phase: str) -> str:
    """What ranks do in a stage, or in a phase of it such as "denoise step 3"."""
    return _STAGES.get(phase.partition(" ")[0], phase)


class Display(Progress):
    """Progress of one request: a bar on a terminal, one line for each stage elsewhere."""

    def __init__(self, stream: IO[str]) -> None:
        console = make_console(stream)
        self._console = console
        self._bars = Bars(
            SpinnerColumn("line"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[skipped]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            refresh_per_second=4,  # the cores have better things to do
            transient=True,
            disable=not console.is_terminal,
        )
        self._bars.start()
        self._task = self._bars.add_task(_STAGES["start"], total=None, skipped="")
        self._skipped = 0
        self._prefix = ""

    def close(self) -> None:
        """Take the bar off the terminal, so that what is printed next stands alone."""
        self._bars.stop()

    def video(self, index: int, count: int) -> None:
        self._prefix = f"video {index} (of {count}): " if count > 1 else ""

    def note(self, line: str) -> None:
        self._console.print(Text(line))

    def stage(self, name: str) -> None:
        label = self._prefix + _STAGES.get(name, name)
        if self._console.is_terminal:
            self._skipped = 0
            self._bars.reset(self._task, description=label, total=None, skipped="")
        else:
            self._console.print(label, highlight=False)

    def step(self, index: int, total: int, action: str) -> None:
        self._skipped += action == "skip"
        skipped = f"{self._skipped} skipped" if self._skipped else ""
        self._bars.update(self._task, completed=index + 1, total=total, skipped=skipped)

    def done(self) -> None:
        self._prefix = ""


class _PatientConsole(Console):
    """A console whose reader may leave: a run of hours does not end because `| head` has seen enough."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def draws_unicode(console: Console) -> bool:
    """Whether letters beyond ASCII arrive."""
    return (console.encoding or "").lower().startswith("utf")


def make_console(stream: IO[str]) -> Console:
    """A console as wide as the terminal behind ``stream``, which need not be the process's own stdout."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        width = None if stream.isatty() else 120
    return _PatientConsole(file=stream, width=width, soft_wrap=not stream.isatty())


def restore_terminal() -> None:
    """Undo on stderr what a progress bar leaves behind when its process is killed: a hidden cursor, half a line."""
    if os.isatty(2):
        os.write(2, b"\r\x1b[2K\x1b[?25h")


def print_summary(reports: Sequence[Mapping[str, Any]], stream: IO[str]) -> None:
    """Where the videos are, what was computed and skipped, and how long it took."""
    console = make_console(stream)
    unicode = draws_unicode(console)
    lines = summary_lines(reports[0], unicode) if len(reports) == 1 else list_lines(reports, unicode)
    for label, value in lines:
        console.print(Text.assemble((f"{label:<9}", "bold"), value))


def list_lines(reports: Sequence[Mapping[str, Any]], unicode: bool = True) -> list[tuple[str, str]]:
    """The summary of several videos, one line each, as (label, text) pairs."""
    times, dot = ("×", " · ") if unicode else ("x", ", ")
    lines = []
    for index, report in enumerate(reports):
        totals = report["totals"]
        parts = [
            report["output"]["path"],
            *(count_actions(name, row) for name, row in _timelines(report["steps"])),
            f"{totals['seconds']['total'] - totals['seconds']['load']:.1f} s",
        ]
        lines.append((f"video {index}", dot.join(parts)))
    fraction = sum(report["totals"]["block_fraction"] for report in reports) / len(reports)
    lines.append(("speed-up", f"{1 / fraction:.2f}{times} over no cache, as executed blocks say"))
    return lines


def summary_lines(report: Mapping[str, Any], unicode: bool = True) -> list[tuple[str, str]]:
    """The summary as (label, text) pairs."""
    totals, request = report["totals"], report["request"]
    sampling = request.get("sampling", request)
    times, dot = ("×", " · ") if unicode else ("x", ", ")
    lines = []
    for path in _paths(report["output"]):
        seconds = sampling["frames"] / sampling["fps"]
        size = f"{sampling['width']}{times}{sampling['height']}, {sampling['frames']} frames, {seconds:.1f} s"
        lines.append(("video", f"{path} ({size})"))
    for name, row in _timelines(report["steps"]):
        lines.append((name, f"{draw_timeline(row, unicode)} {count_actions('steps', row)}"))
    parts = [f"{name} {totals['seconds'][name]:.1f}" for name in _SECONDS if name in totals["seconds"]]
    lines.append(("seconds", dot.join(parts)))
    fraction = totals["block_fraction"]
    speedup = f"{1 / fraction:.2f}{times}" if fraction else "-"
    lines.append(("speed-up", f"{speedup} over no cache, as executed blocks say"))
    return lines


def _paths(output: Mapping[str, Any]) -> list[str]:
    videos = output.get("videos") or [output]  # one for each prompt
    return [video["path"] for video in videos if video["path"]]


def _timelines(steps: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The actions of each sample and branch; a single row "steps" where all are the same."""
    rows: dict[tuple[int, str], list[str]] = {}
    for step in steps:
        rows.setdefault((step.get("sample", 0), step["branch"]), []).append(step["action"])
    if all(row == next(iter(rows.values())) for row in rows.values()):
        return [("steps", row) for row in list(rows.values())[:1]]
    several = len({sample for sample, _ in rows}) > 1
    return [(f"{sample} {branch}" if several else branch, row) for (sample, branch), row in rows.items()]


def count_actions(name: str, row: Sequence[str]) -> str:
    """How many steps were computed and skipped, after the name of what took them unless that is "steps"."""
    skipped = sum(action == "skip" for action in row)
    counted = f"{len(row) - skipped} computed, {skipped} skipped"
    return counted if name == "steps" else f"{name} {counted}"


def draw_timeline(row: Sequence[str], unicode: bool = True) -> str:
    """One character for each step, by its action."""
    computed, skipped = ("■", "·") if unicode else ("#", ".")
    return "".join(skipped if action == "skip" else computed for action in row)
