"""The processes of a gang on a Ray cluster, one actor each: started together, monitored together, ended together."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from engine.progress import Progress
from launch.gang.assignment import ActorInfo, assign, carried_environment
from launch.gang.bundles import BundleOnNode, RankBundles, Resources
from launch.gang.monitor import GangFailure, Monitor
from launch.gang.rank_actor import RankActor
from launch.gang.watch import RayWatch
from launch.jobs.config import JobConfig
from launch.process.bounded import within
from launch.process.failures import Failure
from launch.ranks.local import checkout_environment

_LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_TELL_SECONDS = 10.0


class Actors:
    """One actor for each rank. A context manager: all of them are killed at its end.

    Ray neither restarts an actor nor repeats a call: a rank that is restarted alone could not join the others again.
    """

    def __init__(
        self,
        kind: type[RankActor],
        bundles: RankBundles,
        resources: Resources,
        config: JobConfig,
        progress: Progress,
        ray_watch: RayWatch,
    ) -> None:
        """
        Args:
            kind: what each actor is.
            bundles: one for each rank.
            resources: of each bundle.
            progress: told what rank 0 reports.
        """
        self._bundles = bundles
        self._config = config
        self._progress = progress
        self._ray_watch = ray_watch
        carried = carried_environment()
        self._carried = carried
        remote: Any = ray.remote  # its type hints lack concurrency groups
        member = remote(
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0),
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups=dict.fromkeys(kind.GROUPS, 1),
            runtime_env={"env_vars": checkout_environment() | _ours(carried)},
        )(kind)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def become_ranks(self) -> int:
        """Give every actor its rank. Returns the port of the store at which they join.

        Raises:
            GangFailure: an actor did not start, failed or was lost.
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
        assert first.port is not None, "rank 0 has opened the store"
        return first.port

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
