"""Where this process stands among the ranks of a run, by its environment and its options.

A rank is the same program with the same arguments as its launcher, so the environment alone tells them apart.
"""

from __future__ import annotations

import os
from enum import StrEnum

from engine.errors import InvalidInput
from launch.process.signals import PARENT_PID, become_rank, is_rank, raise_when_interrupted
from launch.ranks.torchrun import refuse_without_torchrun
from parallel.place import Place


class Launcher(StrEnum):
    """Who starts the ranks."""

    LOCAL = "local"
    TORCHRUN = "torchrun"
    RAY = "ray"


def find_place(launcher: Launcher | None = None, ranks: int | None = None) -> Place:
    """The place of this process: a rank if it was started as one, else a launcher.

    Args:
        launcher: what ``--launcher`` names, if it was given. With ``torchrun`` any process that has RANK and WORLD_SIZE
            in its environment is a rank; with another one a process that torchrun started is a launcher.
        ranks: what ``--ranks`` names, if it was given.

    Raises:
        InvalidInput: torchrun was named, but did not start this process, or it started another number of ranks.
    """
    ours = is_rank() and PARENT_PID in os.environ
    if launcher is Launcher.TORCHRUN and not ours:
        refuse_without_torchrun(ranks)
        become_rank()
    elif not ours and not (launcher is None and is_rank()):
        if is_rank():
            raise_when_interrupted()  # until the options were read, the process was taken for a rank
        return Place(ranks)
    place = read_place()
    if ranks not in (None, place.ranks):
        raise InvalidInput(f"--ranks is {ranks}, but torchrun has started {place.ranks}: leave --ranks out.")
    return place


def read_place() -> Place:
    """The place that RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and GROUP_WORLD_SIZE name.

    Raises:
        InvalidInput: one of them is no whole number.
    """
    ranks = _number("WORLD_SIZE", 1)
    nodes = _number("GROUP_WORLD_SIZE", 0) or None
    return Place(ranks, _number("RANK", 0), _number("LOCAL_WORLD_SIZE", ranks), nodes)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(
            f"{name} is {text!r} in the environment, but should be a whole number: let torchrun set it."
        ) from None
