"""The progress of a run on stderr: a bar on a terminal that somebody watches, lines elsewhere."""

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
from launch.screens.console import is_watched, make_console
from launch.screens.progress_lines import ProgressLines
from launch.screens.stages import stage_in_words


def display_on(stream: IO[str], ranks: int | None = None, machines: int | None = None) -> ProgressBar | ProgressLines:
    """The progress of one run as ``stream`` can show it; to be closed before anything else is printed.

    Args:
        ranks: the world size, which lines begin with. machines: that they are on, if that is known.
    """
    return ProgressBar(stream) if is_watched(stream) else ProgressLines(stream, ranks, machines)


class ProgressBar(Progress):
    """Draws the progress of one run on a terminal."""

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
        )
        self._bars.start()
        self._task = self._bars.add_task(stage_in_words("start"), total=None, skipped="")
        self._skipped = 0
        self._prefix = ""

    def close(self) -> None:
        """Remove the bar from the terminal, before anything else is printed."""
        self._bars.stop()

    def video(self, index: int, count: int) -> None:
        self._prefix = f"video {index} (of {count}): " if count > 1 else ""

    def note(self, line: str) -> None:
        with suppress(OSError):  # a terminal that is gone must not end the run
            self._console.print(Text(line), highlight=False)

    def stage(self, name: str) -> None:
        self._skipped = 0
        self._bars.reset(self._task, description=self._prefix + stage_in_words(name), total=None, skipped="")

    def step(self, index: int, total: int, action: str) -> None:
        self._skipped += action == "skip"
        skipped = f"{self._skipped} skipped" if self._skipped else ""
        self._bars.update(self._task, completed=index + 1, total=total, skipped=skipped)

    def done(self) -> None:
        self._prefix = ""
