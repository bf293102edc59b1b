"""The ranks of a gang that makes videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.progress import Progress
from launch.gang.actors import Actors
from launch.gang.bundles import RankBundles, Resources
from launch.gang.member import Member, VideosOutcome
from launch.gang.monitor import GangFailure
from launch.gang.watch import RayWatch
from launch.jobs.config import JobConfig
from launch.jobs.job import Job
from parallel.control import Control


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    reports: list[dict[str, Any]]
    """The run reports of all its videos; none if it was stopped."""
    stopped: Control
    """PAUSE or CANCEL if that was asked for before the end, else RUN."""


class Gang(Actors):
    """Runs one job after another with the same loaded model."""

    def __init__(
        self, bundles: RankBundles, resources: Resources, config: JobConfig, progress: Progress, ray_watch: RayWatch
    ) -> None:
        """As of :class:`launch.gang.actors.Actors`."""
        super().__init__(Member, bundles, resources, config, progress, ray_watch)
        self._jobs = 0

    def load(self, job: Job) -> None:
        """Give every actor its rank, join the process groups and load the model.

        Raises:
            GangFailure: a rank failed or was lost.
        """
        port = self.become_ranks()
        self._monitor.watch([actor.load.remote(port, job) for actor in self._actors])

    def accept(self, job: Job) -> None:
        """Have all ranks check a job and make ready for it, and lock its folder against other runs.

        Raises:
            GangFailure: a rank cannot do the job. Unless the failure is ``lost``, the gang can accept another job.
        """
        try:
            self._monitor.watch([actor.accept.remote(job) for actor in self._actors])
        except GangFailure as error:
            if not error.lost:
                self._monitor.watch([actor.release.remote() for actor in self._actors])
            raise

    def generate(self, control: Callable[[], Control] = lambda: Control.RUN) -> JobResult:
        """Make the videos of the accepted job. The gang can accept another one afterwards, unless this raises.

        Args:
            control: called several times a second; PAUSE or CANCEL ends the job at the ranks' next step. What it
                raises is passed on while the ranks still work: then the gang has to be stopped.

        Raises:
            GangFailure: a rank failed or was lost.
        """
        self._jobs += 1
        works = [actor.generate.remote(self._jobs) for actor in self._actors]
        first, *_ = self._monitor.watch(works, self._jobs, control)
        assert isinstance(first, VideosOutcome), "it has not failed"
        return JobResult(first.reports or [], first.stopped)

    def ping(self) -> None:
        """Between two jobs: check that all ranks answer.

        Raises:
            GangFailure: one does not.
        """
        self._monitor.watch([actor.ping.remote() for actor in self._actors])
