"""Folders for files that nobody needs afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InvalidInput

_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_USUAL = ("/tmp", "/var/tmp", "/dev/shm")
_PREFIX = "ls-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new private folder, which is removed at the end.

    Raises:
        InvalidInput: no folder for such can be written.
    """
    folder = make_scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_scratch_folder(preferred: Sequence[str] = (), longest: int = 4096) -> Path:
    """A new private folder in the first place that can be written and is short enough.

    Args:
        preferred: folders that come before $TMPDIR and the usual ones.
        longest: length of the new folder's path in bytes: the path of a Unix socket has 107 at most.

    Raises:
        InvalidInput: there is no such place; the sentence says what was wrong with each.
    """
    reasons: dict[str, str] = {}
    for place in (*preferred, *_places()):
        if place in reasons:
            continue
        if len(os.fsencode(place)) + len(_PREFIX) + 9 > longest:
            reasons[place] = f"longer than {longest - len(_PREFIX) - 9} letters"
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        except OSError as error:
            reasons[place] = (error.strerror or str(error)).lower()
    tried = ", ".join(f"{place}: {reason}" for place, reason in reasons.items())
    raise InvalidInput(
        f"There is no folder for temporary files ({tried}): set TMPDIR to one that exists and can be written"
        + (", with a short name." if longest < 4096 else ".")
    )


def _places() -> Iterator[str]:
    for name in _VARIABLES:
        if given := os.environ.get(name):
            yield os.path.abspath(given)
    yield from _USUAL
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield runtime
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        yield os.path.join(home, ".cache")
        yield home
    yield os.getcwd()
