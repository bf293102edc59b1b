"""Any collective work on ranks, whoever starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, TypeVar

from engine.errors import InvalidInput
from engine.progress import Progress
from launch.jobs.elsewhere import GangWork
from launch.process.signals import PARENT_PID
from launch.ranks.place import Launcher, find_place
from launch.ranks.program import run_on_ranks
from parallel.place import Place

Job = TypeVar("Job", bound=GangWork)
Outcome = TypeVar("Outcome")


def refuse_address_without_ray(launcher: Launcher | None, ray_address: str | None) -> None:
    """
    Raises:
        InvalidInput: a cluster is named, and its ranks are not asked for.
    """
    if launcher is not Launcher.RAY and ray_address is not None:
        named = (launcher or Launcher.LOCAL).value
        raise InvalidInput(f"--ray-address is {ray_address}, but --launcher is {named}: add --launcher ray.")


def refuse_unless_started_here(launcher: Launcher | None, what: str) -> None:
    """
    Args:
        what: needs it; the beginning of a sentence on a program.

    Raises:
        InvalidInput: others than this command start the ranks.
    """
    if launcher is Launcher.RAY or (not find_place(launcher).is_launcher and PARENT_PID not in os.environ):
        by = "Ray" if launcher is Launcher.RAY else "torchrun"
        raise InvalidInput(f"{what} starts its ranks on this machine, and here {by} starts them: use local ranks.")


def run_work(
    launcher: Launcher | None,
    ranks: int | None,
    ray_address: str | None,
    prepare: Callable[[Place], Job],
    work: Callable[[Job, Progress, int], Outcome | None],
    summarise: Callable[[Outcome, IO[str]], None],
) -> int:
    """Do collective work on local ranks, as a rank of torchrun, or on a Ray cluster.

    Args:
        launcher, ranks, ray_address: as the options name them.
        prepare: checks the work for a place.
        work: a function of a module; as of :func:`launch.ranks.program.run_on_ranks`.
        summarise: prints on stdout what the work returned on the first rank, and names files as the options do: with
            Ray the first rank may have written them elsewhere, from where they were fetched.

    Returns:
        The exit code.

    Raises:
        InvalidInput: the checks failed.
    """
    refuse_address_without_ray(launcher, ray_address)
    place = find_place(launcher, ranks)
    if launcher is not Launcher.RAY:
        return run_on_ranks(place, prepare, work, summarise)
    from launch.gang.address import check_address

    check_address(ray_address)
    from launch.gang.work import run_work_on_ray  # imports ray, which takes seconds

    return run_work_on_ray(prepare, work, summarise, ranks, ray_address)
