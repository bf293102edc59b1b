"""A job on a Ray cluster: a gang is started, monitored and, where checkpoints are written, started again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from engine.progress import Progress
from launch.gang.bundles import machines_of
from launch.gang.connection import connection
from launch.gang.gang import Gang
from launch.gang.monitor import GangFailure
from launch.gang.reservation import Reservation
from launch.gang.restarts import DYING_SECONDS, JobFailure, RestartBudget, attempt_again
from launch.jobs.job import Job
from launch.process.failures import Failure, print_failure
from launch.ranks.rank import display, summarise
from parallel.place import Place


def run_on_ray(job: Job, check: Callable[[Place, bool], Job], ranks: int | None, address: str | None) -> int:
    """Run a checked job on the cluster at ``address``, with progress and summary here. Returns the exit code.

    Args:
        job: as it passed its checks before anything was known of the cluster.
        check: ``prepare`` with its options, to check it again for the nodes that the ranks got. The second argument is
            whether an earlier attempt of this process has begun it.
        ranks: the world size that was asked for, or None for what the job's degrees multiply to; where the layout is
            chosen for the machine, for all GPUs of the cluster.

    Raises:
        InvalidInput: there is no cluster, or no room in it.
    """
    stderr = sys.stderr
    with connection(address, job.degrees.world_size):
        failure: Failure | None = None
        with ExitStack() as drawing:  # ends before anything else is printed
            progress = display(stderr, drawing, ranks or job.degrees.world_size)
            try:
                reports = _JobOnRay(job, check, ranks, progress).run()
            except JobFailure as error:
                failure = error.failure
    if failure is not None:
        print_failure(failure)
        return failure.exit_code
    with suppress(OSError):  # a full or closed stdout; the files are written
        summarise(reports, sys.stdout)
    return 0


class _JobOnRay:
    """One job, attempted on one gang after another in the same bundles as long as their nodes are up."""

    def __init__(self, job: Job, check: Callable[[Place, bool], Job], ranks: int | None, progress: Progress) -> None:
        self._job = job
        self._check = check
        self._progress = progress
        self._reservation = Reservation(job, ranks)
        self._begun = False

    def run(self) -> list[dict[str, Any]]:
        """The run reports of all videos.

        Raises:
            JobFailure: a rank raised an error, or more ranks were lost than is allowed.
        """
        config = self._job.config
        # without checkpoints another attempt would begin from nothing
        budget = RestartBudget.of(config) if config.checkpoint.every else RestartBudget(0, 0)
        try:
            return attempt_again(self._attempt, budget, self._start_again)
        finally:
            self._reservation.release()

    def _attempt(self) -> list[dict[str, Any]]:
        config, bundles = self._job.config, self._reservation.bundles()
        machines, ranks_each = machines_of(bundles.node_ids)
        place = Place(self._reservation.ranks, local_ranks=ranks_each, nodes=machines, elsewhere=True)
        job = self._check(place, self._begun)
        for line in job.notes:
            self._progress.note(line)
        with Gang(bundles, self._reservation.resources, config, self._progress) as gang:
            gang.load(job)
            gang.accept(job)
            reports = gang.generate().reports
        job.clean_up()
        return reports

    def _start_again(self, error: GangFailure) -> None:
        self._progress.note(f"{error.failure}: starting all ranks again, from the newest checkpoint")
        self._begun = True
        if self._job.folder:
            self._job.folder.await_end(DYING_SECONDS)
