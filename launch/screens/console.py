"""The console that all screens print on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from launch.process.printable import LONGEST_LINE, printable, shortened


class _SafeConsole(Console):
    """A console that goes on without output when its pipe is closed: a run of hours must not end with `| head`.

    It shows no control characters but its own: file names, prompts and errors may hold escape sequences. Of a text that
    is too long to be read it shows both ends.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_cut, objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control is None and not text.isprintable():
                text = "\n".join(map(printable, text.split("\n")))
            yield Segment(text, style, control)

    def on_broken_pipe(self) -> None:
        self.quiet = True


def _cut(shown: Any) -> Any:
    if isinstance(shown, str):
        return shortened(shown, LONGEST_LINE)
    if isinstance(shown, Text) and len(shown) > LONGEST_LINE:
        return Text(shortened(shown.plain, LONGEST_LINE))
    return shown


def draws_unicode(console: Console) -> bool:
    """Whether the console can show characters beyond ASCII."""
    return (console.encoding or "").lower().startswith("utf")


def make_console(stream: IO[str]) -> Console:
    """A console as wide as the terminal that ``stream`` leads to, which need not be the process's own stdout."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        width = None if stream.isatty() else 120
    return _SafeConsole(file=stream, width=width, soft_wrap=not stream.isatty())


def is_watched(stream: IO[str]) -> bool:
    """Whether somebody may watch the stream on a terminal that can be drawn on again: no pipe or file, no dumb terminal
    (TERM), and no service that builds or tests (CI), whose terminal is a log."""
    plain = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    is_service = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and not plain and not is_service


def restore_terminal() -> None:
    """Show the cursor again on stderr, and clear its line, after a process with a progress bar was killed."""
    if os.isatty(2):
        os.write(2, b"\r\x1b[2K\x1b[?25h")
