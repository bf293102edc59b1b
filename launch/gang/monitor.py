"""Watching the ranks while they work: who died, who does not answer, who answers and does not get on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from engine.progress import Progress
from launch.gang.member import Outcome
from launch.gang.places import RankBundle, living
from launch.gang.recorder import Status
from launch.jobs.config import JobConfig
from launch.process.failures import Failure
from parallel.control import Control

_LOOK_SECONDS = 0.2
_ASK_SECONDS = 0.5
# ranks that lost contact report within milliseconds, often before Ray has noticed the one that died
_GRACE_SECONDS = 5.0
_STACK_SECONDS = 3.0


class GangFailure(Exception):
    """The gang cannot go on; ``failure`` names the rank and why."""

    def __init__(self, failure: Failure, lost: bool, preempted: bool = False) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.lost = lost  # a process or the contact to it: another try may succeed, for nothing was wrong with the job
        self.preempted = preempted  # lost because a node was taken away, as had been said beforehand


@dataclass
class _Watched:
    """What the driver knows of one rank."""

    rank: int
    actor: Any
    place: RankBundle
    status: Status
    asked: Any = None  # the question that is on its way
    asked_at: float = 0.0


class Monitor:
    """Of one gang; also draws what its first rank tells."""

    def __init__(
        self, actors: Sequence[Any], places: Sequence[RankBundle], config: JobConfig, progress: Progress
    ) -> None:
        start = Status("start", 0.0, 0, ())
        self._ranks = [_Watched(i, *pair, start) for i, pair in enumerate(zip(actors, places, strict=True))]
        self._config = config
        self._progress = progress
        self._number = 0
        self._wish = Control.RUN

    def watch(
        self, works: Sequence[Any], number: int = 0, wish: Callable[[], Control] = lambda: Control.RUN
    ) -> list[Outcome]:
        """Wait for one reference of each rank; the outcomes in rank order.

        Args:
            number: of the job that is done.
            wish: asked several times a second what is wanted of it; what it raises ends the waiting.

        Raises:
            GangFailure: as soon as it is known that one of them will not come to a good end.
        """
        self._number, self._wish = number, Control.RUN
        for watched in self._ranks:  # how long it was idle before does not count
            watched.status = replace(watched.status, idle_seconds=0.0)
        pending = {work: rank for rank, work in enumerate(works)}
        outcomes: dict[int, Outcome] = {}
        consequences: list[Failure] = []
        deadline = float("inf")
        while pending:
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
            self._ask(list(pending.values()), wish())
        self._ask([], Control.RUN, last=True)
        return [outcomes[rank] for rank in range(len(works))]

    def _outcome(self, rank: _Watched, work: Any) -> Outcome:
        try:
            return ray.get(work)
        except RayActorError as error:
            failure = self._failure(rank, _why_it_died(error, rank.place))
            raise GangFailure(failure, lost=True, preempted=bool(getattr(error, "preempted", False))) from None
        except RayError as error:
            text = " ".join(str(error).split())[:300]
            raise GangFailure(self._failure(rank, f"{type(error).__name__}: {text}"), lost=False) from None

    def _ask(self, busy: Sequence[int], wish: Control, last: bool = False) -> None:
        """Take in answers, put the next questions, and look whether some rank takes too long.

        Args:
            busy: ranks that are at work.
            wish: told them with the questions, at once where it is a new one.
            last: wait for the answers, for the work is done.
        """
        now = time.monotonic()
        is_news = wish is not self._wish and not last
        self._wish = wish
        for rank in self._ranks:
            if is_news or (rank.asked is None and (last or now - rank.asked_at >= _ASK_SECONDS)):
                rank.asked, rank.asked_at = rank.actor.status.remote(rank.status.told, self._number, wish), now
        asked = {rank.asked: rank for rank in self._ranks if rank.asked is not None}
        answers: Sequence[Any] = ()
        if asked:
            answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_STACK_SECONDS if last else 0)
        for answer in answers:
            self._take_in(asked[answer], answer)
        if not last:
            self._find_silent(now)
            self._find_stuck(busy)

    def _take_in(self, rank: _Watched, answer: Any) -> None:
        rank.asked = None
        try:
            rank.status = ray.get(answer)
        except RayError:
            return  # it died: the work that it did not finish says so
        if rank.rank == 0:
            for method, arguments in rank.status.events:
                getattr(self._progress, method)(*arguments)

    def _find_silent(self, now: float) -> None:
        limit = self._config.ray.silence_timeout_seconds
        for rank in self._ranks:
            if rank.asked is not None and now - rank.asked_at > limit:
                raise self._silent(rank)

    def _silent(self, rank: _Watched) -> GangFailure:
        seconds = time.monotonic() - rank.asked_at
        message = f"the process on {rank.place} has not answered for {seconds:.0f} s"
        return GangFailure(self._failure(rank, message), lost=True)

    def _find_stuck(self, busy: Sequence[int]) -> None:
        stuck = [self._ranks[i] for i in busy if self._ranks[i].status.idle_seconds > self._limit(self._ranks[i])]
        if not stuck:
            return
        stacks = {rank.rank: self._stack(rank) for rank in self._ranks}
        # ranks that wait in a collective wait for the one that is frozen, or else for the one that is elsewhere
        for rank in self._ranks:
            if rank.asked is not None and not stacks[rank.rank]:
                raise self._silent(rank)
        elsewhere = [rank for rank in stuck if not _in_collective(stacks[rank.rank])]
        rank = (elsewhere or stuck)[0]
        failure = self._failure(rank, f"it answers from {rank.place}, but has not got on for {self._limit(rank):g} s")
        text = "\n".join("\n  ".join([f"rank {number}", *stack]) for number, stack in stacks.items())
        raise GangFailure(replace(failure, traceback=text), lost=True)

    def _limit(self, rank: _Watched) -> float:
        runtime = self._config.runtime
        phase = rank.status.phase
        steady = phase.startswith("denoise step ") and not phase.startswith("denoise step 0")
        return runtime.step_timeout_seconds if steady else runtime.load_timeout_seconds

    def _stack(self, rank: _Watched) -> list[str]:
        """What the rank is doing; nothing if it does not answer."""
        try:
            return ray.get(rank.actor.stack.remote(), timeout=_STACK_SECONDS)
        except RayError:
            return []

    def _failure(self, rank: _Watched, message: str) -> Failure:
        return Failure(rank.rank, rank.status.phase, message, time.time_ns())


def _in_collective(stack: Sequence[str]) -> bool:
    return any("torch/distributed" in line for line in stack[-4:])


def _why_it_died(error: RayActorError, place: RankBundle) -> str:
    if getattr(error, "preempted", False):
        return f"{place} was pre-empted"
    if not living({place.node_id}):
        return f"{place} was lost"
    if "running low on memory" in str(error):  # by Ray; any other death says that memory might be the reason
        return f"the process on {place} was ended because the node was running out of memory"
    return f"the process on {place} died"
