"""A job on a Ray cluster: a gang is started, monitored and, where checkpoints are written, started again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engine.progress import Progress
from launch.gang.bundles import machines_of
from launch.gang.driver import Driver
from launch.gang.gang import Gang
from launch.gang.monitor import GangFailure
from launch.gang.reservation import Reservation
from launch.gang.restarts import DYING_SECONDS, JobFailure, RestartBudget, attempt_again
from launch.gang.watch import RayWatch
from launch.jobs.job import Job
from launch.process.failures import Failure
from launch.process.pausing import PauseRequest
from launch.ranks.rank import summarise
from parallel.control import Control
from parallel.place import Place

_NO_CHECKPOINTS = "Nothing is left of it: with `checkpoint.every` it could go on."


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
    world_size = job.degrees.world_size
    driver = Driver(address, ranks or world_size, job.config.ray.head_timeout_seconds, summarise)

    def make(progress: Progress, ray_watch: RayWatch, succeed: Callable[[list[dict[str, Any]]], None]) -> None:
        _JobOnRay(job, check, ranks, progress, ray_watch, succeed).run()

    return driver.run(make, world_size, "" if job.config.checkpoint.every else _NO_CHECKPOINTS)


class _JobOnRay:
    """One job, attempted on one gang after another in the same bundles as long as their nodes are up."""

    def __init__(
        self,
        job: Job,
        check: Callable[[Place, bool], Job],
        ranks: int | None,
        progress: Progress,
        ray_watch: RayWatch,
        succeed: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        """
        Args:
            succeed: called with the run reports of all videos once their files are written, before the ranks are ended.
        """
        self._job = job
        self._check = check
        self._progress = progress
        self._ray_watch = ray_watch
        self._succeed = succeed
        self._reservation = Reservation(job, ranks, ray_watch, progress.note)
        self._begun = False

    def run(self) -> None:
        """
        Raises:
            JobFailure: it was paused by SIGTERM, a rank raised an error, or more ranks were lost than is allowed.
            RayLost: Ray is gone.
        """
        config = self._job.config
        # without checkpoints another attempt would begin from nothing
        budget = RestartBudget.of(config) if config.checkpoint.every else RestartBudget(0, 0)
        try:
            attempt_again(self._attempt, budget, self._start_again)
        finally:
            self._reservation.release()

    def _attempt(self) -> None:
        config, bundles = self._job.config, self._reservation.bundles()
        machines, ranks_each = machines_of(bundles.node_ids)
        place = Place(self._reservation.ranks, local_ranks=ranks_each, nodes=machines, elsewhere=True)
        job = self._check(place, self._begun)
        for line in job.notes:
            self._progress.note(line)
        with Gang(bundles, self._reservation.resources, config, self._progress, self._ray_watch) as gang:
            gang.load(job)
            gang.accept(job)
            with PauseRequest(job.grace_seconds) as request:
                result = gang.generate(request.control)
            if result.stopped is Control.PAUSE:
                raise JobFailure(Failure(0, "denoise", "Paused, as SIGTERM asked.", time.time_ns(), paused=True))
            self._succeed(result.reports)
            job.clean_up()

    def _start_again(self, error: GangFailure) -> None:
        self._progress.note(f"{error.failure}: starting all ranks again, from the newest checkpoint")
        self._begun = True
        if self._job.folder:
            self._job.folder.await_end(DYING_SECONDS)
