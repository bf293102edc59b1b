"""Lines of a log, each with the time."""

from __future__ import annotations

from datetime import datetime

from launch.process.printable import printable


def stamped(line: str) -> str:
    """The line as a log holds it: the local time with its offset before it, and no control characters."""
    return f"{datetime.now().astimezone().isoformat(' ', 'seconds')} {printable(line)}"
