"""The ranks of a job as Ray actors, one each: started together, monitored together, ended together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from engine.progress import Progress
from launch.gang.assignment import ActorInfo, assign, carried_environment
from launch.gang.bundles import BundleOnNode, RankBundles, Resources
from launch.gang.member import STATUS_GROUP, Member
from launch.gang.monitor import GangFailure, Monitor
from launch.gang.watch import RayWatch
from launch.jobs.config import JobConfig
from launch.jobs.job import Job
from launch.process.bounded import within
from launch.process.failures import Failure
from launch.ranks.local import checkout_environment
from parallel.control import Control

_LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_TELL_SECONDS = 10.0


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    reports: list[dict[str, Any]]
    """The run reports of all its videos; none if it was stopped."""
    stopped: Control
    """PAUSE or CANCEL if that was asked for before the end, else RUN."""


class Gang:
    """Runs one job after another with the same loaded model. A context manager: all actors are killed at its end.

    Ray neither restarts an actor nor repeats a call: a rank that is restarted alone could not join the others again.
    """

    def __init__(
        self, bundles: RankBundles, resources: Resources, config: JobConfig, progress: Progress, ray_watch: RayWatch
    ) -> None:
        """
        Args:
            bundles: one for each rank.
            resources: of each bundle.
            progress: told what rank 0 reports.
        """
        self._bundles = bundles
        self._config = config
        self._progress = progress
        self._ray_watch = ray_watch
        self._jobs = 0
        carried = carried_environment()
        self._carried = carried
        remote: Any = ray.remote  # its type hints lack concurrency groups
        member = remote(
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0),
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={STATUS_GROUP: 1},
            runtime_env={"env_vars": checkout_environment() | _ours(carried)},
        )(Member)
        # kept here, since Ray ends an actor that has no reference left
        self._actors: list[Any] = [
            member.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    bundles.group, placement_group_bundle_index=bundle.index
                )
            ).remote()
            for bundle in bundles.by_rank
        ]
        self._by_rank: Sequence[BundleOnNode] = bundles.by_rank

    def __enter__(self) -> Gang:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def load(self, job: Job) -> None:
        """Give every actor its rank, join the process groups and load the model.

        Raises:
            GangFailure: a rank failed or was lost.
        """
        actors = self._describe_actors()
        order, assignments = assign(actors, os.getcwd())
        self._actors = [self._actors[index] for index in order]
        self._by_rank = [self._by_rank[index] for index in order]
        self._monitor = Monitor(self._actors, self._by_rank, self._config, self._progress, self._ray_watch)
        # the port is chosen where it is opened, and held from then on
        address = _LOOPBACK if len(set(self._bundles.node_ids)) == 1 else actors[order[0]].address
        first, *_ = self._monitor.watch(
            [
                actor.become_rank.remote(assignment, self._carried, address)
                for actor, assignment in zip(self._actors, assignments, strict=True)
            ]
        )
        self._monitor.watch([actor.load.remote(first.port, job) for actor in self._actors])

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
        return JobResult(first.reports or [], first.stopped)

    def ping(self) -> None:
        """Between two jobs: check that all ranks answer.

        Raises:
            GangFailure: one does not.
        """
        self._monitor.watch([actor.ping.remote() for actor in self._actors])

    def stop(self) -> None:
        """Kill all ranks, whatever they wait for; in bounded time, and also where Ray is gone."""
        actors, self._actors = self._actors, []
        with suppress(RayError, TimeoutError):
            if self._ray_watch.is_lost:  # nobody else would end them for as long as their nodes wait for the head
                within(_STOP_SECONDS, lambda: ray.wait([actor.leave.remote() for actor in actors], timeout=1.0))
            else:
                within(_STOP_SECONDS, lambda: [ray.kill(actor, no_restart=True) for actor in actors])

    def _await(self, answers: Sequence[Any], deadline: float) -> None:
        """Wait for the answers until a time, and say now and then how many have not come.

        Args:
            deadline: in monotonic seconds.
        """
        since = told = time.monotonic()
        pending = list(answers)
        while pending and (now := time.monotonic()) < deadline:
            self._ray_watch.check()
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=min(_LOOK_SECONDS, deadline - now))
            if pending and time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                count = f"{len(answers) - len(pending)} of {len(answers)} ranks have started"
                self._progress.note(f"waiting for processes on Ray: {count}, after {told - since:.0f} s")

    def _describe_actors(self) -> list[ActorInfo]:
        """Wait until all actors have started, and ask each where it is."""
        limit = self._config.ray.start_timeout_seconds
        deadline = time.monotonic() + limit
        answers = [actor.describe.remote() for actor in self._actors]
        self._await(answers, deadline)
        actors = []
        for rank, (bundle, answer) in enumerate(zip(self._by_rank, answers, strict=True)):
            try:
                actors.append(ray.get(answer, timeout=max(0.0, deadline - time.monotonic())))
                continue
            except GetTimeoutError:
                message = f"the process on {bundle} did not start within {limit:g} s"
            except RayActorError as error:
                message = f"the process on {bundle} did not start: {' '.join(str(error).split())[:400]}"
            raise GangFailure(Failure(rank, "start", message, time.time_ns()), lost=True)
        return actors


def _ours(carried: dict[str, str]) -> dict[str, str]:
    """Variables that an actor needs when it starts, and that no node sets itself."""
    return {name: value for name, value in carried.items() if name.startswith("LOCKSTEP_")}
