"""Errors that a user sees. Each is one sentence: what was wrong, with the value, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parallel.control import Control

if TYPE_CHECKING:  # pydantic is the callers' business; a rank that only reports an error need not import it
    from pydantic import ValidationError


class InvalidInput(ValueError):
    """The user's input cannot work; raised before any weight is loaded. Exit code 2."""


class MachineUnfit(InvalidInput):
    """What was asked for is right as far as is known, but this machine lacks something for it: a folder, a device."""


class NoRoom(MachineUnfit):
    """A disk has not the room that the work needs; raised before the work begins. It may have it later."""


class RankFailure(RuntimeError):
    """This rank cannot continue, for the reason that the message gives in one sentence. Exit code 1."""


class PeerLost(RankFailure):
    """This rank stopped because another one did; the other rank's error is to be reported."""


class DiskFailure(RankFailure):
    """A disk took no files for longer than a run waits."""


class OutOfMemory(RankFailure):
    """A card has no memory left for what it was asked to do."""


class Stopped(RankFailure):
    """The control word ended the request, on all ranks at the same step. The engine can take another request."""


class Paused(Stopped):
    """The request can be resumed: if it has a folder for checkpoints, there is one of exactly this step."""


class Cancelled(Stopped):
    """The request is removed: no checkpoint and no output is left."""


def stop_if_asked(agreed: Control, where: str) -> None:
    """End the request if the control word, which all ranks of the replica have agreed on, says so.

    Args:
        where: the place that an error names, "denoise step 3".

    Raises:
        Paused, Cancelled: as agreed.
    """
    if agreed is Control.CANCEL:
        raise Cancelled(f"Cancelled at {where}.")
    if agreed is Control.PAUSE:
        raise Paused(f"Paused at {where}.")


def speaks_for_itself(error: BaseException) -> bool:
    """Whether the message is a full sentence of this project's, so that the name of its class is left out."""
    text = str(error)
    ours = type(error).__module__.partition(".")[0] in ("dicache", "parallel", "engine")
    return bool(text) and (
        ours or isinstance(error, InvalidInput) or (type(error) is ValueError and text.endswith("."))
    )


def sentence(error: BaseException) -> str:
    """The error as one line of text; line breaks in its message become spaces."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if speaks_for_itself(error) else f"{name}: {text}" if text else name


def first_problem(error: ValidationError, prefix: str = "") -> tuple[str, str]:
    """The first problem of a pydantic error: (dotted key, what is wrong, without a full stop).

    Args:
        prefix: put before the key, for a model that is validated alone ("sampling.").
    """
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(
        path[:-2] if path[-1:] == ["[key]"] else path
    )  # pydantic names a wrong key of a mapping twice
    if problem["type"] == "value_error":  # from a validator of ours: its message is already a sentence
        return key, str(problem["ctx"]["error"]).rstrip(".")
    return key, f"{key} {_complaint(problem)}"


def _complaint(problem: Any) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        return f"is {value!r}, but it should be a section of keys"
    if kind == "tuple_type":
        return f"is {value!r}, but it should be a list"
    if problem["loc"][-1] == "[key]":
        return f"has the key {value!r}, but {problem['msg'].replace('Input', 'it', 1)}"
    wanted = problem["msg"].replace("Input should be", "it should be", 1).rstrip(".")
    return f"is {value!r}, but {wanted}"
