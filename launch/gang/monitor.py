"""Monitoring the ranks while they work: which died, which do not answer, which answer but make no progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from engine.progress import Progress
from launch.gang.bundles import BundleOnNode, living
from launch.gang.rank_actor import Outcome
from launch.gang.recorder import Status
from launch.gang.watch import RayWatch
from launch.jobs.config import JobConfig
from launch.process.failures import Failure
from launch.process.hangs import RankState, all_stacks, find_hung, gets_on, time_limit
from parallel.control import Control

_LOOK_SECONDS = 0.2
_ASK_SECONDS = 0.5
# ranks that lost contact report within milliseconds, often before Ray has noticed the one that died
_GRACE_SECONDS = 5.0
_STATE_SECONDS = 3.0


class GangFailure(Exception):
    """The gang cannot go on with its job."""

    def __init__(self, failure: Failure, lost: bool, preempted: bool = False) -> None:
        """
        Args:
            failure: the rank, and why it failed.
            lost: a process was lost, or the contact to it, so another attempt may succeed; False if a rank raised an
                error.
            preempted: it was lost because a node was taken away with notice.
        """
        super().__init__(str(failure))
        self.failure = failure
        self.lost = lost
        self.preempted = preempted


@dataclass
class _MonitoredRank:
    """What the driver knows of one rank."""

    rank: int
    actor: Any
    bundle: BundleOnNode
    status: Status
    asked: Any = None
    """Ray's reference to the status that was asked for and has not come yet."""
    asked_at: float = 0.0
    """Monotonic seconds."""


class Monitor:
    """Monitors one gang, and passes on the progress of its first rank."""

    def __init__(
        self,
        actors: Sequence[Any],
        bundles: Sequence[BundleOnNode],
        config: JobConfig,
        progress: Progress,
        ray_watch: RayWatch,
    ) -> None:
        start = Status("start", 0.0, 0, ())
        self._ranks = [_MonitoredRank(i, *pair, start) for i, pair in enumerate(zip(actors, bundles, strict=True))]
        self._config = config
        self._progress = progress
        self._ray_watch = ray_watch
        self._number = 0
        self._control = Control.RUN

    def watch(
        self, works: Sequence[Any], number: int = 0, control: Callable[[], Control] = lambda: Control.RUN
    ) -> list[Outcome]:
        """Wait until every rank has done its work.

        Args:
            works: Ray's reference to the outcome of each rank, in rank order.
            number: of the job.
            control: called several times a second for what is asked of the job; what it raises is passed on.

        Returns:
            The outcomes in rank order.

        Raises:
            GangFailure: one of the ranks failed, died, does not answer or makes no progress.
            RayLost: Ray is gone.
        """
        self._number, self._control = number, Control.RUN
        for watched in self._ranks:  # time before this work does not count as idle
            watched.status = replace(watched.status, idle_seconds=0.0)
        pending = {work: rank for rank, work in enumerate(works)}
        outcomes: dict[int, Outcome] = {}
        consequences: list[Failure] = []
        deadline = float("inf")
        while pending:
            self._ray_watch.check()
            done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=_LOOK_SECONDS)
            raised: list[Failure] = []
            for work in done:
                rank = pending.pop(work)
                outcomes[rank] = outcome = self._outcome(self._ranks[rank], work)
                if outcome.failure is not None:
                    (consequences if outcome.failure.consequence else raised).append(outcome.failure)
            if raised:
                raise GangFailure(min(raised, key=lambda failure: failure.time_ns), lost=False)
            if consequences:
                deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
                if time.monotonic() >= deadline or not pending:
                    raise GangFailure(min(consequences, key=lambda failure: failure.time_ns), lost=True)
            self._ask(list(pending.values()), control())
        self._ask([], Control.RUN, last=True)
        return [outcomes[rank] for rank in range(len(works))]

    def _outcome(self, rank: _MonitoredRank, work: Any) -> Outcome:
        try:
            return ray.get(work)
        except RayActorError as error:
            self._ray_watch.check_now()
            why = self._ray_watch.call(partial(_why_it_died, error, rank.bundle))
            failure = self._failure(rank, why)
            raise GangFailure(failure, lost=True, preempted=bool(getattr(error, "preempted", False))) from None
        except RayError as error:
            text = " ".join(str(error).split())[:300]
            failure = self._failure(rank, f"{type(error).__name__}: {text}")
            # what Ray itself cannot do: no room for objects, a lost owner
            failure = replace(failure, machines=not isinstance(error, RayTaskError))
            raise GangFailure(failure, lost=False) from None

    def _ask(self, busy: Sequence[int], control: Control, last: bool = False) -> None:
        """Receive the statuses that have come, ask for the next ones, and check that no rank takes too long.

        Args:
            busy: ranks that have not done their work.
            control: sent with the questions, and at once where it has changed.
            last: the work is done: wait for the statuses.
        """
        now = time.monotonic()
        has_changed = control is not self._control and not last
        self._control = control
        for rank in self._ranks:
            if has_changed or (rank.asked is None and (last or now - rank.asked_at >= _ASK_SECONDS)):
                rank.asked, rank.asked_at = rank.actor.status.remote(rank.status.told, self._number, control), now
        asked = {rank.asked: rank for rank in self._ranks if rank.asked is not None}
        answers: Sequence[Any] = ()
        if asked:
            answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_STATE_SECONDS if last else 0)
        for answer in answers:
            self._receive(asked[answer], answer)
        if not last:
            self._find_silent(now)
            self._find_stuck(busy)

    def _receive(self, rank: _MonitoredRank, answer: Any) -> None:
        rank.asked = None
        try:
            rank.status = ray.get(answer)
        except RayError:
            return  # it died, which the reference to its work will raise
        if rank.rank == 0:
            for method, arguments in rank.status.events:
                getattr(self._progress, method)(*arguments)

    def _find_silent(self, now: float) -> None:
        limit = self._config.ray.silence_timeout_seconds
        for rank in self._ranks:
            if rank.asked is not None and now - rank.asked_at > limit:
                raise self._silent(rank)

    def _silent(self, rank: _MonitoredRank) -> GangFailure:
        seconds = time.monotonic() - rank.asked_at
        message = f"the process on {rank.bundle} has not answered for {seconds:.0f} s"
        return GangFailure(self._failure(rank, message), lost=True)

    def _find_stuck(self, busy: Sequence[int]) -> None:
        stuck = [self._ranks[i] for i in busy if self._ranks[i].status.idle_seconds > self._limit(self._ranks[i])]
        if not stuck:
            return
        states = {rank.rank: self._state(rank) for rank in self._ranks}
        # the others wait for one that does not answer, or else for one that has not reached what they wait in
        for rank in self._ranks:
            if rank.asked is not None and not states[rank.rank].stack:
                raise self._silent(rank)
        stuck = [rank for rank in stuck if not self._waits_for_one_that_gets_on(rank, states)]
        if not stuck:
            return
        rank = self._ranks[find_hung({rank.rank: states[rank.rank] for rank in stuck})]
        failure = self._failure(rank, f"it answers from {rank.bundle}, but has not got on for {self._limit(rank):g} s")
        raise GangFailure(replace(failure, traceback=all_stacks(states)), lost=True)

    def _waits_for_one_that_gets_on(self, rank: _MonitoredRank, states: Mapping[int, RankState]) -> bool:
        size = self._config.parallel.degrees.replica_size
        first = rank.rank - rank.rank % size
        hung = find_hung({peer: states[peer] for peer in range(first, first + size)})
        return hung != rank.rank and gets_on(self._config.runtime, states[hung])

    def _limit(self, rank: _MonitoredRank) -> float:
        return time_limit(self._config.runtime, rank.status.phase)

    def _state(self, rank: _MonitoredRank) -> RankState:
        """The state of the rank, without a stack if it does not answer."""
        try:
            return ray.get(rank.actor.state.remote(), timeout=_STATE_SECONDS)
        except RayError:
            return RankState(rank.status.phase, rank.status.idle_seconds, ())

    def _failure(self, rank: _MonitoredRank, message: str) -> Failure:
        return Failure(rank.rank, rank.status.phase, message, time.time_ns())


def _why_it_died(error: RayActorError, bundle: BundleOnNode) -> str:
    if getattr(error, "preempted", False):
        return f"{bundle} was pre-empted"
    if not living({bundle.node_id}):
        return _node_lost(bundle)
    if "running low on memory" in str(error):  # Ray killed it; of any other death Ray says that memory may be the cause
        return f"the process on {bundle} was ended because the node was running out of memory"
    return f"the process on {bundle} died"


def _node_lost(bundle: BundleOnNode) -> str:
    return f"{bundle} was lost"
