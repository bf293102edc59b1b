"""What a line of the check comes to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class State(StrEnum):
    """The values of ``state`` in the report."""

    HOLDS = "holds"
    FALLS_SHORT = "falls short"
    NOT_HERE = "not here"


class Finding(BaseModel):
    """The state of a line, the figure that was measured, and the reason: the limit it was held against, or what went
    wrong.

    is_slow: it falls short by a speed alone, which says nothing where other programs had the processors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    figure: str = ""
    reason: str = ""
    is_slow: bool = False


def holds(figure: str, reason: str = "") -> Finding:
    """It is as it should be."""
    return Finding(state=State.HOLDS, figure=figure, reason=reason)


def falls_short(figure: str, reason: str) -> Finding:
    """It is not as it should be, and the check ends with exit code 1."""
    return Finding(state=State.FALLS_SHORT, figure=figure, reason=reason)


def not_here(reason: str, figure: str = "") -> Finding:
    """This machine has not what the line is about, or lets nobody see it."""
    return Finding(state=State.NOT_HERE, figure=figure, reason=reason)


def judged(shortfalls: Sequence[str], figure: str, reason: str = "", slow: Sequence[str] = ()) -> Finding:
    """Falls short for the reasons named, or holds where there are none.

    Args:
        reason: of a line that holds.
        slow: further shortfalls, of speed.
    """
    if not shortfalls and not slow:
        return holds(figure, reason)
    said = "; ".join([*shortfalls, *slow])
    return Finding(state=State.FALLS_SHORT, figure=figure, reason=said, is_slow=not shortfalls)


def lost_contact(reason: str) -> bool:
    """Whether a rank says no more than that another one is gone, or silent."""
    return any(sign in reason for sign in ("closed by peer", "reset by peer", "Broken pipe", "imed out", "timeout"))
