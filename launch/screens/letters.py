"""Names of files, and prompts, on a stream whose encoding need not have their letters."""

from __future__ import annotations

import io
from typing import IO


def any_letters(stream: IO[str]) -> IO[str]:
    """The stream, which from now on shows a question mark for a letter that it cannot."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream
