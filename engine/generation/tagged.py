"""Reads the tag of a video file that anybody may have made."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidInput
from engine.generation.tag import SCHEMA, LaterSchema, Tag, parse_tag
from engine.media.comment import NotMp4, read_comment

_LONGEST_PROBLEM = 300  # characters of what may quote a file


def read_tag(path: Path, what: str) -> Tag:
    """The tag of a video file.

    Args:
        what: how an error begins, before the path: "--like is".

    Raises:
        InvalidInput: the file cannot be read, has no tag, a damaged one, or one of a later schema; one sentence.
    """

    def refuse(complaint: str, advice: str = "give a video that Lockstep has made") -> InvalidInput:
        return InvalidInput(f"{what} {str(path)!r}, which {complaint}: {advice}.")

    try:
        text = read_comment(path.expanduser())
    except NotMp4 as error:
        raise refuse(str(error)) from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: "~" of an unknown user
        reason = error.strerror if isinstance(error, OSError) else error
        raise refuse(f"cannot be read ({reason})", "check the path") from None
    try:
        tag = parse_tag(text) if text is not None else None
    except LaterSchema as error:
        raise refuse(f"has a tag of schema {error}, where this version knows {SCHEMA}", "take a newer one") from None
    except ValueError as error:
        problem = " ".join(str(error).split()).rstrip(".")[:_LONGEST_PROBLEM]
        raise refuse(f"has a damaged tag ({problem})") from None
    if tag is None:
        raise refuse("does not say how it was made")
    return tag
