"""Reads the comment of an MP4 file.

FFmpeg would read it too, but a file that anybody may have made is not given to it for one line of text: it opens
decoders to find out what the streams are, follows playlists whatever the file is called, and has no limit on a comment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

LARGEST_BYTES = 4 * 2**20
"""Of a comment. Two texts of as many letters as a request takes are smaller, however they are escaped."""
_MOST_BOXES = 10_000
"""Beside one another: a file may be made of nothing but empty ones, which would take minutes to pass."""
_WAY = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
"""From the file to the text, each box in the one before: ISO/IEC 14496-12, and the list of tags that iTunes brought."""
_BEFORE_BOXES = {b"meta": 4}
"""Bytes of its own that a box has before those in it: version and flags."""
_BEFORE_TEXT = 8
"""Bytes of the last box before the text: its kind, 1 for UTF-8, and a language."""


class NotMp4(ValueError):
    """The file is not one, or damaged; the message says so, to be put behind "which"."""


class _Box(NamedTuple):
    name: bytes
    start: int
    """Of what is in it."""
    end: int


def read_comment(path: Path) -> str | None:
    """The comment of an MP4 file; None where it has none. Of the file no more than headers and the comment are read.

    Raises:
        OSError: the file cannot be read.
        NotMp4: it is no MP4 file, cut off before the comment, or its comment is larger than 4 MB or no UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for until somebody writes to it
        raise NotMp4("is no file")
    with path.open("rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size)


def _read(file: BinaryIO, size: int) -> str | None:
    if size == 0:
        raise NotMp4("is empty")
    file.seek(4)
    if file.read(4) != b"ftyp":
        raise NotMp4("is no MP4 file")
    box: _Box | None = _Box(b"", 0, size)
    for name in _WAY:
        assert box is not None
        inside = _boxes(file, box.start + _BEFORE_BOXES.get(box.name, 0), box.end)
        box = next((each for each in inside if each.name == name), None)
        if box is None:
            return None
    assert box is not None
    length = box.end - box.start - _BEFORE_TEXT
    if length > LARGEST_BYTES:
        raise NotMp4(f"has a comment of {length / 2**20:.0f} MB, where {LARGEST_BYTES // 2**20} are the most")
    if length < 0:
        raise NotMp4("is damaged")
    file.seek(box.start + _BEFORE_TEXT)
    try:
        return file.read(length).decode("utf-8")
    except UnicodeDecodeError:
        raise NotMp4("has a comment that is not text in UTF-8") from None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """The boxes from one place to another.

    Raises:
        NotMp4: one is longer than what it is in, or there are too many.
    """
    for _ in range(_MOST_BOXES):
        if start == end:
            return
        file.seek(start)
        header = file.read(max(0, min(16, end - start)))
        length, name, before = int.from_bytes(header[:4], "big"), header[4:8], 8
        if length == 1:  # 32 bits are too few for it
            length, before = int.from_bytes(header[8:16], "big"), 16
        elif length == 0:  # the last one
            length = end - start
        if len(header) < before or not before <= length <= end - start:
            raise NotMp4("is damaged or cut off")
        yield _Box(name, start + before, start + length)
        start += length
    raise NotMp4(f"has more than {_MOST_BOXES} parts beside one another")
