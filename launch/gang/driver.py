"""The process that a person started, while ranks on Ray do the work: progress, summary, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import IO, Generic, TypeVar

from engine.progress import Progress
from launch.gang.connection import connection
from launch.gang.restarts import JobFailure
from launch.gang.watch import RayLost, RayWatch
from launch.process.failures import Failure, print_failure
from launch.process.signals import Interrupted, say
from launch.ranks.rank import display

Outcome = TypeVar("Outcome")


class Driver(Generic[Outcome]):
    """Connects to a cluster, has the work done there and summarises what came of it."""

    def __init__(
        self,
        address: str | None,
        ranks: int,
        head_timeout_seconds: float,
        summarise: Callable[[Outcome, IO[str]], None],
    ) -> None:
        """
        Args:
            address: as of :func:`launch.gang.connection.connected`.
            ranks: the world size, as far as it is known.
            head_timeout_seconds: how long the cluster's head may be silent.
            summarise: prints what the work has given.
        """
        self._address = address
        self._ranks = ranks
        self._head_timeout_seconds = head_timeout_seconds
        self._summarise = summarise

    def run(
        self, work: Callable[[Progress, RayWatch, Callable[[Outcome], None]], None], cpus: int, when_lost: str = ""
    ) -> int:
        """Returns the exit code.

        Args:
            work: takes progress to tell, the watch over Ray, and what it calls with the outcome once all files are
                written, and before the ranks are ended. It may raise `JobFailure`, `RayLost` or `InvalidInput`.
            cpus: that a Ray which is started for this run has at least.
            when_lost: a sentence that follows the one which says that Ray is gone.

        Raises:
            InvalidInput: there is no cluster, or no room in it, or the work is refused.
            Interrupted: a signal came.
        """
        try:
            failure = self._connect_and_run(work, cpus)
        except _Made:
            return 0
        except RayLost as error:
            say(f"lockstep: {error} {when_lost}".rstrip())
            return 1
        print_failure(failure)
        return failure.exit_code

    def _connect_and_run(
        self, work: Callable[[Progress, RayWatch, Callable[[Outcome], None]], None], cpus: int
    ) -> Failure:
        """Why the work failed.

        Raises:
            _Made: it has succeeded, and the summary is printed, whatever has happened to Ray since.
            RayLost: Ray is gone.
        """
        made = False
        try:
            with connection(self._address, cpus, self._head_timeout_seconds) as ray, ExitStack() as drawing:
                progress = display(ray.stderr, drawing, self._ranks)

                def succeed(outcome: Outcome) -> None:
                    nonlocal made
                    made = True
                    drawing.close()  # before anything else is printed
                    with suppress(OSError):  # a full or closed stdout; the files are written
                        self._summarise(outcome, ray.stdout)
                        ray.stdout.flush()

                try:
                    work(progress, ray.watch, succeed)
                except JobFailure as error:
                    return error.failure
                except RayLost as error:
                    ray.logs.keep = True
                    raise RayLost(f"{error}{ray.logs.in_words}") from None
        except (Exception, Interrupted):
            if made:  # Ray may be gone by now, or somebody does not wait for the clean-up
                raise _Made from None
            raise
        raise _Made


class _Made(Exception):
    """All files of the work are written."""
