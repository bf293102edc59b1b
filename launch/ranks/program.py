"""One program for every process of a run on local ranks or under torchrun: it is a rank, or it starts the ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import IO, Protocol, TypeVar

from engine.config import Config
from engine.progress import Progress
from launch.process.phase import PhaseKeeper
from launch.ranks.hang_watch import HangWatch
from launch.ranks.rank import run_part
from parallel.place import Place


class Prepared(Protocol):
    """Work that has passed every check."""

    @property
    def config(self) -> Config: ...


Job = TypeVar("Job", bound=Prepared)
Outcome = TypeVar("Outcome")


def run_on_ranks(
    place: Place,
    prepare: Callable[[Place], Job],
    work: Callable[[Job, Progress, int], Outcome | None],
    summarise: Callable[[Outcome, IO[str]], None],
    around: Callable[[Job], AbstractContextManager[None]] = lambda job: nullcontext(),
    grace_seconds: Callable[[Job], float] = lambda job: 0.0,
) -> int:
    """A rank does its part of the work. A launcher checks the work and starts as many ranks as it needs, each of which
    runs this program with the same arguments; if that is one, the launcher itself becomes it.

    Args:
        place: of this process.
        prepare: checks the work for a place.
        work: takes what was prepared, the progress to tell and the rank; collective over the ranks. What it returns,
            on the first rank, is summarised on stdout.
        around: what the launcher does while the work runs.
        grace_seconds: what SIGTERM leaves the work to pause.

    Returns:
        The exit code.

    Raises:
        InvalidInput: the checks failed on the launcher.
    """
    if place.rank is not None:
        rank = place.rank

        def take_part(progress: PhaseKeeper) -> Outcome | None:
            job = prepare(place)
            size = job.config.parallel.degrees.replica_size
            replica = range(rank - rank % size, rank - rank % size + size)
            with HangWatch(progress, job.config.runtime, rank, replica):
                return work(job, progress, rank)

        return run_part(take_part, summarise, place)
    job = prepare(place)
    ranks = job.config.parallel.degrees.world_size
    with around(job):
        if ranks > 1:
            from launch.ranks.local import start_ranks  # imports torch's launcher

            return start_ranks(ranks, grace_seconds(job))
        return run_part(lambda progress: work(job, progress, 0), summarise, replace(place, ranks=1, rank=0))
