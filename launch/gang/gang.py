"""Ranks in Ray actors, one each: started together, watched together, ended together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from engine.progress import Progress
from launch.gang.assignment import Resident, assign, carried_environment
from launch.gang.member import STATUS_GROUP, Member
from launch.gang.monitor import GangFailure, Monitor
from launch.gang.places import Bundle, Places, RankBundle
from launch.jobs.config import JobConfig
from launch.jobs.job import Job
from launch.process.failures import Failure
from launch.ranks.local import checkout_environment
from parallel.control import Control

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ending:
    """What became of a job."""

    reports: list[dict[str, Any]]  # of all its videos, where nothing stopped it
    stopped: Control


class Gang:
    """The ranks of one job after another; the model stays loaded between them. To be left with ``with``.

    Actors are neither restarted nor asked twice by Ray: a rank alone cannot come back to the others.
    """

    def __init__(self, places: Places, bundle: Bundle, config: JobConfig, progress: Progress) -> None:
        """
        Args:
            progress: is told what rank 0 tells.
        """
        self._places = places
        self._config = config
        self._progress = progress
        self._jobs = 0
        carried = carried_environment()
        self._carried = carried
        remote: Any = ray.remote  # its types know no concurrency groups
        member = remote(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={STATUS_GROUP: 1},
            runtime_env={"env_vars": checkout_environment() | _ours(carried)},
        )(Member)
        # strong references: an actor that nobody holds is ended by Ray
        self._actors: list[Any] = [
            member.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    places.group, placement_group_bundle_index=place.bundle
                )
            ).remote()
            for place in places.by_rank
        ]
        self._by_rank: Sequence[RankBundle] = places.by_rank

    def __enter__(self) -> Gang:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def load(self, job: Job) -> None:
        """Give every actor its rank, join them and load the model.

        Raises:
            GangFailure: a rank could not.
        """
        residents = self._residents()
        order, seats = assign(residents, os.getcwd())
        self._actors = [self._actors[index] for index in order]
        self._by_rank = [self._by_rank[index] for index in order]
        self._monitor = Monitor(self._actors, self._by_rank, self._config, self._progress)
        # the port is chosen where it is opened, and held from then on
        address = _LOOPBACK if len(set(self._places.nodes)) == 1 else residents[order[0]].address
        first, *_ = self._monitor.watch(
            [actor.sit.remote(seat, self._carried, address) for actor, seat in zip(self._actors, seats, strict=True)]
        )
        self._monitor.watch([actor.load.remote(first.port, job) for actor in self._actors])

    def take(self, job: Job) -> None:
        """Have all ranks ready for a job, with other runs kept out of its folder.

        Raises:
            GangFailure: a rank cannot do it. If it was not ``lost``, the gang can take another job.
        """
        try:
            self._monitor.watch([actor.take.remote(job) for actor in self._actors])
        except GangFailure as error:
            if not error.lost:
                self._monitor.watch([actor.let_go.remote() for actor in self._actors])
            raise

    def generate(self, wish: Callable[[], Control] = lambda: Control.RUN) -> Ending:
        """Make the videos of the job that was taken. The gang can take another one afterwards, unless this raises.

        Args:
            wish: asked several times a second what is wanted of the job, which ends it at the ranks' next step; what
                it raises comes out of here, and leaves the gang in no known state.

        Raises:
            GangFailure: a rank could not.
        """
        self._jobs += 1
        works = [actor.generate.remote(self._jobs) for actor in self._actors]
        first, *_ = self._monitor.watch(works, self._jobs, wish)
        return Ending(first.reports or [], first.stopped)

    def stand_by(self) -> None:
        """Between two jobs: see whether all ranks are there.

        Raises:
            GangFailure: one is not.
        """
        self._monitor.watch([actor.stand_by.remote() for actor in self._actors])

    def stop(self) -> None:
        """End all ranks at once, whatever they wait for."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)

    def _residents(self) -> list[Resident]:
        """What the actors say of themselves, once they have started."""
        limit = self._config.ray.start_timeout_seconds
        deadline = time.monotonic() + limit
        answers = [actor.describe.remote() for actor in self._actors]
        residents = []
        for rank, (place, answer) in enumerate(zip(self._by_rank, answers, strict=True)):
            try:
                residents.append(ray.get(answer, timeout=max(0.0, deadline - time.monotonic())))
                continue
            except GetTimeoutError:
                message = f"the process on {place} did not start within {limit:g} s"
            except RayActorError as error:
                message = f"the process on {place} did not start: {' '.join(str(error).split())[:400]}"
            raise GangFailure(Failure(rank, "start", message, time.time_ns()), lost=True)
        return residents


def _ours(carried: dict[str, str]) -> dict[str, str]:
    """What a process should have from its first moment on; no node has its own."""
    return {name: value for name, value in carried.items() if name.startswith("LOCKSTEP_")}
