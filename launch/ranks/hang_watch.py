"""A thread of each rank that finds out which rank the others wait for, and ends the run with its name.

Without it the first rank whose wait times out would end the run, and nobody would know for whom it waited. Ranks on Ray
have none: their driver sees them all.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from launch.process.failures import Failure, record, record_state, report_here
from launch.process.hangs import (
    Limits,
    RankState,
    all_stacks,
    find_hung,
    gets_on,
    somebody_waits,
    stack_of,
    time_limit,
    where,
)
from launch.process.phase import PhaseKeeper

if TYPE_CHECKING:
    from torch.distributed import Store

_LOOKS_IN_LIMIT, _LONGEST_PERIOD_SECONDS = 20, 1.0
_ANSWER_SECONDS = 3.0
_ALARM = "alarm"


class HangWatch:
    """A context manager: watches from its beginning to its end. To be made in the thread that works.

    A rank that has not got on for as long as it may wait gives alarm in the job's store. All ranks of the replica
    answer with their state, each from its own thread, even if what hangs is the work. Whoever has waited for so long
    then knows all states, or who does not answer, and comes to the same verdict.
    """

    def __init__(self, keeper: PhaseKeeper, limits: Limits, rank: int, replica: Sequence[int]) -> None:
        """
        Args:
            keeper: told of all progress of this rank.
            rank: of this process in the job. replica: all ranks of its replica.
        """
        self._keeper = keeper
        self._limits = limits
        self._rank = rank
        self._replica = replica
        self._worker = threading.get_ident()
        self._store: Store | None = None
        self._seen: tuple[int, int] | None = None  # progress and collectives when this rank last got on
        self._since = time.monotonic()
        self._token: str | None = None  # of the alarm that was seen last
        self._alarm_seen_at = 0.0
        self._gives_alarm = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_until_ended, name="hang watch", daemon=True)

    def __enter__(self) -> Self:
        if len(self._replica) > 1:
            self._keeper.has_watch = True
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.has_watch = False
        self._ended.set()

    def _look_until_ended(self) -> None:
        shortest = min(self._limits.step_timeout_seconds, self._limits.load_timeout_seconds)
        period = min(shortest / _LOOKS_IN_LIMIT, _LONGEST_PERIOD_SECONDS)
        while not self._ended.wait(period):
            if self._keeper.phase in ("start", "join"):
                continue  # torch is being imported; and who does not come is named where the ranks meet
            with suppress(RuntimeError, ValueError):  # of a store that is gone: its owner has ended, and so will this
                self._look()

    def _look(self) -> None:
        from parallel.torch_private import collectives_begun, job_store

        if self._store is None:
            self._store = job_store("lockstep/hangs")
            self._store.set_timeout(timedelta(seconds=_ANSWER_SECONDS))
        seen = (self._keeper.events, collectives_begun())
        if seen != self._seen:
            self._end_alarm()
            self._seen, self._since = seen, time.monotonic()
        state = RankState(self._keeper.phase, time.monotonic() - self._since, stack_of(self._worker), seen[1])
        limit = time_limit(self._limits, state.phase)
        if state.idle_seconds > limit / 2:
            record_state(state)
        is_late = state.idle_seconds > limit
        self._gives_alarm |= is_late
        token = self._alarm(raise_it=is_late)
        if token != self._token:
            if self._token is not None:
                self._store.delete_key(f"{self._token}/{self._rank}")
            self._token, self._alarm_seen_at = token, time.monotonic()
        if token is None:
            return
        self._store.set(f"{token}/{self._rank}", json.dumps(asdict(state)))
        if is_late:
            self._judge(token)

    def _alarm(self, raise_it: bool) -> str | None:
        """The token of the alarm of this replica, if one was given."""
        assert self._store is not None
        key = f"{_ALARM}/{self._replica[0]}"
        if raise_it:
            return self._store.compare_set(key, "", uuid.uuid4().hex).decode()
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _end_alarm(self) -> None:
        """Take an alarm of this rank back, since it gets on, or the rank that it waits for does. It may give another,
        to which all answer anew."""
        if self._store is not None and self._gives_alarm:
            self._store.delete_key(f"{_ALARM}/{self._replica[0]}")
            self._gives_alarm = False

    def _judge(self, token: str) -> None:
        assert self._store is not None
        answered = [rank for rank in self._replica if self._store.check([f"{token}/{rank}"])]
        if len(answered) < len(self._replica) and time.monotonic() - self._alarm_seen_at < _ANSWER_SECONDS:
            return
        states = {rank: RankState(self._keeper.phase, 0.0, ()) for rank in self._replica}
        states |= {rank: RankState(**json.loads(self._store.get(f"{token}/{rank}"))) for rank in answered}
        if not somebody_waits(states) or gets_on(self._limits, states[find_hung(states)]):
            self._end_alarm()
            return
        failure = describe_hang(states)
        record(failure)
        report_here(failure)
        os._exit(failure.exit_code)  # the thread that works would never see an exception


def describe_hang(states: dict[int, RankState]) -> Failure:
    """The failure of the rank that the others wait for."""
    hung = find_hung(states)
    state = states[hung]
    seconds = max(other.idle_seconds for other in states.values())
    if state.stack:
        message = (
            f"it has not got on for {state.idle_seconds:.0f} s, and others wait for it: it is in {where(state.stack)}"
        )
    else:
        message = f"its process does not answer, and others have waited for it for {seconds:.0f} s"
    return Failure(hung, state.phase, message, time.time_ns(), traceback=all_stacks(states))
