"""The progress of a run on stderr: a bar on a terminal, elsewhere one line for each stage."""

from __future__ import annotations

from contextlib import suppress
from typing import IO

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
from launch.screens.console import make_console

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


def stage_in_words(phase: str) -> str:
    """The words for a stage, or for a phase of it such as "denoise step 3"."""
    return _STAGES.get(phase.partition(" ")[0], phase)


class ProgressDisplay(Progress):
    """Draws the progress of one run."""

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
            refresh_per_second=4,  # drawing more often would take time from the ranks
            transient=True,
            disable=not console.is_terminal,
        )
        self._bars.start()
        self._task = self._bars.add_task(_STAGES["start"], total=None, skipped="")
        self._skipped = 0
        self._prefix = ""

    def close(self) -> None:
        """Remove the bar from the terminal, before anything else is printed."""
        self._bars.stop()

    def video(self, index: int, count: int) -> None:
        self._prefix = f"video {index} (of {count}): " if count > 1 else ""

    def note(self, line: str) -> None:
        self._print(Text(line))

    def stage(self, name: str) -> None:
        label = self._prefix + _STAGES.get(name, name)
        if self._console.is_terminal:
            self._skipped = 0
            self._bars.reset(self._task, description=label, total=None, skipped="")
        else:
            self._print(label)

    def step(self, index: int, total: int, action: str) -> None:
        self._skipped += action == "skip"
        skipped = f"{self._skipped} skipped" if self._skipped else ""
        self._bars.update(self._task, completed=index + 1, total=total, skipped=skipped)

    def done(self) -> None:
        self._prefix = ""

    def _print(self, line: str | Text) -> None:
        with suppress(OSError):  # stderr may be a file on a full disk, which must not end the run
            self._console.print(line, highlight=False)
