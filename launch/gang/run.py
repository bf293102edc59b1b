"""A job on a Ray cluster: a gang is started, watched and, where checkpoints are written, started again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from engine.progress import Progress
from launch.gang.connection import connection
from launch.gang.gang import Gang
from launch.gang.monitor import GangFailure
from launch.gang.places import machines_of
from launch.gang.reservation import Quarters
from launch.gang.restarts import Budget
from launch.jobs.job import Job
from launch.process.failures import Failure, print_failure
from launch.ranks.rank import display, summarise
from parallel.place import Place


def run_on_ray(
    job: Job, check: Callable[[Place, bool], Job], ranks: int | None, address: str | None, resume: bool = False
) -> int:
    """Run a checked job on the cluster at ``address``, with progress and summary here. Returns the exit code.

    Args:
        job: as it passed its checks before anything was known of the cluster.
        check: ``prepare`` with its options, to check it again for the nodes that the ranks got, and, from the second
            attempt on, to go on with what the one before has left.
        ranks: the world size that was asked for, or None for what the job's degrees multiply to; where the layout is
            chosen for the machine, for all GPUs of the cluster.
        resume: the job was begun by an earlier run.

    Raises:
        InvalidInput: there is no cluster, or no room in it.
    """
    stderr = sys.stderr
    with connection(address, job.degrees.world_size):
        failure: Failure | None = None
        with ExitStack() as drawing:  # ends before anything else is printed
            progress = display(stderr, drawing)
            try:
                reports = _Attempts(job, check, ranks, resume, progress).run()
            except GangFailure as error:
                failure = error.failure
    if failure is not None:
        print_failure(failure)
        return failure.exit_code
    with suppress(OSError):  # a full or closed stdout; the files are written
        summarise(reports, sys.stdout)
    return 0


# that the processes of a gang may take to be gone once they are killed; longer means that a machine is in trouble
DYING_SECONDS = 30


class _Attempts:
    """The gangs of one job, one after another in the same places as long as their nodes live."""

    def __init__(
        self, job: Job, check: Callable[[Place, bool], Job], ranks: int | None, resume: bool, progress: Progress
    ) -> None:
        self._job = job
        self._check = check
        self._progress = progress
        self._quarters = Quarters(job, ranks)
        self._resume = resume

    def run(self) -> list[dict[str, Any]]:
        """The reports of all videos.

        Raises:
            GangFailure: more ranks were lost than is allowed, or one failed of itself.
        """
        budget = Budget(self._job.config)
        try:
            while True:
                try:
                    return self._attempt()
                except GangFailure as error:
                    if not self._job.config.checkpoint.every or not budget.take(error):
                        raise
                    self._progress.note(f"{error.failure}: starting all ranks again, from the newest checkpoint")
                    self._resume = True
                    if self._job.folder:
                        self._job.folder.await_end(DYING_SECONDS)
        finally:
            self._quarters.release()

    def _attempt(self) -> list[dict[str, Any]]:
        config, places = self._job.config, self._quarters.places()
        nodes, part = machines_of(places.nodes)
        job = self._check(Place(self._quarters.ranks, local_ranks=part, nodes=nodes, elsewhere=True), self._resume)
        for line in job.notes:
            self._progress.note(line)
        with Gang(places, self._quarters.bundle, config, self._progress) as gang:
            gang.load(job)
            gang.take(job)
            reports = gang.generate().reports
        job.clean_up()
        return reports
