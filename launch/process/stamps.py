"""Lines with the time before them, in a log and as progress."""

from __future__ import annotations

import time
from datetime import datetime

from launch.process.printable import printable


def timed(line: str) -> str:
    """The line as progress shows it: the local date and time before it."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"


def stamped(line: str) -> str:
    """The line as a log holds it: the local time with its offset before it, and no control characters."""
    return f"{datetime.now().astimezone().isoformat(' ', 'seconds')} {printable(line)}"
