"""What a line of the check comes to."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class State(StrEnum):
    """The values of ``state`` in the report."""

    HOLDS = "holds"
    FALLS_SHORT = "falls short"
    NOT_HERE = "not here"


class Finding(BaseModel):
    """The state of a line, the figure that was measured, and the reason: the limit it was held against, or what went
    wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    figure: str = ""
    reason: str = ""


def holds(figure: str, reason: str = "") -> Finding:
    """It is as it should be."""
    return Finding(state=State.HOLDS, figure=figure, reason=reason)


def falls_short(figure: str, reason: str) -> Finding:
    """It is not as it should be, and the check ends with exit code 1."""
    return Finding(state=State.FALLS_SHORT, figure=figure, reason=reason)


def not_here(reason: str) -> Finding:
    """This machine has not what the line is about."""
    return Finding(state=State.NOT_HERE, reason=reason)


def judged(shortfalls: list[str], figure: str, reason: str = "") -> Finding:
    """Falls short for the reasons named, or holds where there are none.

    Args:
        reason: of a line that holds.
    """
    return falls_short(figure, "; ".join(shortfalls)) if shortfalls else holds(figure, reason)
