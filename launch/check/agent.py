"""Runs the lines of a check in processes of their own, a process for each rank, and starts them again after a line that
has ended one of them or has not ended in time.

Locally one agent has all ranks. Under torchrun and on Ray each rank is an agent with one; they share a board.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any, Protocol

from launch.check.board import Board
from launch.check.crowding import ENOUGH, Clocks, crowded
from launch.check.finding import Finding, falls_short, lost_contact, not_here
from launch.check.starting import Assignment, Worker, ending, family, listen, start_worker, write
from launch.check.table import Line

_LOOK_SECONDS = 0.1
_START_SECONDS = 180.0
# after a rank has raised an error, the others may wait for it in vain
_OTHERS_SECONDS = 20.0
# how often the time of a line that is overdue on a busy machine is looked at again
_AGAIN_SECONDS = 5.0


class Audience(Protocol):
    """Is told what happens: of lines by the agent of the first rank alone."""

    def began(self, line: Line) -> None:
        """A line begins."""

    def told(self, line: Line, finding: Finding) -> None:
        """What it came to."""

    def alive(self) -> None:
        """Time has passed, and all is well; several times a second."""


@dataclass
class _Attempt:
    """The processes of one start."""

    workers: list[Worker] = field(default_factory=list)
    said: Queue[tuple[Worker, dict[str, Any]]] = field(default_factory=Queue)

    def end(self) -> None:
        """End all of them, and what their lines have started."""
        for worker in self.workers:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.process.pid, signal.SIGKILL)
        for worker in self.workers:
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                with suppress(OSError):
                    assert pipe is not None
                    pipe.close()


def run_lines(assignment: Assignment, lines: Sequence[Line], board: Board, audience: Audience) -> None:
    """Run the lines in order, each on all ranks or on the first; collective over the agents."""
    left, number = list(lines), 0
    while left:
        attempt = _Attempt()
        try:
            done, stopped = _Watch(assignment, left, number, board, attempt, audience).run()
        finally:
            attempt.end()
        if stopped is None or done == len(left):
            return
        line = left[done]
        if 0 in assignment.own:
            audience.told(line, stopped)
        left, number = left[done + 1 :], number + 1


class _Watch:
    """Watches the processes of one start until all lines are done, or one of them has to be given up."""

    def __init__(
        self,
        assignment: Assignment,
        lines: Sequence[Line],
        number: int,
        board: Board,
        attempt: _Attempt,
        audience: Audience,
    ) -> None:
        self._of = assignment
        self._lines = {line.name: line for line in lines}
        self._order = [line.name for line in lines]
        self._number = number
        self._board = board
        self._begun: Clocks
        self._look_at: float
        self._raised_at: float | None
        self._attempt = attempt
        self._audience = audience
        self._done = 0
        self._begin(_START_SECONDS, has_begun=False)

    def run(self) -> tuple[int, Finding | None]:
        """How many lines are done, and what the next one came to, which ended this start; None if it did not."""
        leads = 0 in self._of.own
        self._start()
        while True:
            with suppress(Empty):
                self._hear(*self._attempt.said.get(timeout=_LOOK_SECONDS))
                continue  # all that was said comes before the end of its process is looked at
            self._audience.alive()
            if self._board.check([self._key("stopped")]):
                done, finding = json.loads(self._board.get(self._key("stopped")))
                return done, Finding.model_validate(finding)
            if all(worker.is_finished for worker in self._attempt.workers) and self._is_over(leads):
                return self._done, None
            if (finding := self._trouble(leads)) is not None:
                self._give_up(finding, leads)
            elif leads and self._board.check([self._key("lost")]):
                lost = Finding.model_validate_json(self._board.get(self._key("lost")))
                self._give_up(self._raised() or lost, leads)

    def _is_over(self, leads: bool) -> bool:
        """Whether no other agent can have trouble any more."""
        if leads:
            self._board.set(self._key("over"), "")
        return self._board.check([self._key("over")])

    def _trouble(self, leads: bool) -> Finding | None:
        """Why this start is to be given up, if it is."""
        for worker in self._attempt.workers:
            code = worker.process.poll()
            if code is not None and not worker.is_finished:
                return (self._raised() if leads else None) or ending(worker, code)
        if not leads:
            return None
        now = time.monotonic()
        if raised := self._raised():
            self._raised_at = self._raised_at or now
            if now - self._raised_at > _OTHERS_SECONDS:
                return raised
        return self._overdue() if now > self._look_at else None

    def _overdue(self) -> Finding | None:
        """The line's time is up: on a busy machine it gets more, and is not judged if that does not suffice."""
        taken = Clocks.of(family(self._attempt.workers)).since(self._begun)
        limit = self._seconds * taken.patience()
        if taken.wall < limit:
            self._look_at = self._begun.wall + min(limit, taken.wall + _AGAIN_SECONDS)
            return None
        if not self._has_begun:
            said = f"it did not begin within {taken.wall:.0f} s: a rank's process did not start"
        else:
            name = self._order[self._done]
            late = [str(worker.rank) for worker in self._attempt.workers if worker.ended != name]
            whose = f"; rank {', '.join(late)} had not done its part" if len(late) < self._of.ranks else ""
            said = f"it did not end within {taken.wall:.0f} s{whose}"
        return not_here(f"{said}, and {crowded(taken.share)}") if taken.share < ENOUGH else falls_short("", said)

    def _raised(self) -> Finding | None:
        """The error that a rank has raised in the line that runs; for the first rank's agent, which knows the line."""
        key = self._key(f"raised/{self._done}")
        return falls_short("", self._board.get(key).decode()) if self._board.check([key]) else None

    def _give_up(self, finding: Finding, leads: bool) -> None:
        """The first rank's agent knows which line was running, so it is the one that ends the start."""
        if leads:
            self._board.set(self._key("stopped"), json.dumps([self._done, finding.model_dump(mode="json")]))
        elif not self._board.check([self._key("lost")]):
            self._board.set(self._key("lost"), finding.model_dump_json())

    def _hear(self, worker: Worker, message: Mapping[str, Any]) -> None:
        if "port" in message:
            self._board.set(self._key("port"), str(message["port"]))
            self._tell_port(message["port"])
        elif "begin" in message and worker.rank == 0:
            line = self._lines[message["begin"]]
            self._begin(line.seconds(self._of.kind), has_begun=True)
            self._audience.began(line)
        elif "ended" in message:
            worker.ended = message["ended"]
            if message["raised"] and not lost_contact(message["raised"]):
                self._board.set(self._key(f"raised/{self._order.index(worker.ended)}"), message["raised"])
        elif "line" in message:
            self._done += 1
            self._begin(_START_SECONDS, has_begun=False)
            self._audience.told(self._lines[message["line"]], Finding.model_validate(message["finding"]))
        elif "finished" in message:
            worker.is_finished = True

    def _begin(self, seconds: float, has_begun: bool) -> None:
        """A line, or the wait for one, begins, and has so much time."""
        self._seconds, self._has_begun = seconds, has_begun
        self._raised_at = None
        self._begun = Clocks.of(family(self._attempt.workers))
        self._look_at = self._begun.wall + seconds

    def _key(self, name: str) -> str:
        return f"check/{self._number}/{name}"

    def _start(self) -> None:
        for rank in self._of.own:
            worker = start_worker(self._of, rank, self._number)
            self._attempt.workers.append(worker)
            threading.Thread(target=listen, args=(worker, self._attempt.said), daemon=True).start()
            order = {
                "attempt": self._number,
                "lines": self._order,
                "rank": rank,
                "ranks": self._of.ranks,
                "local_ranks": self._of.local_ranks,
                "kind": self._of.kind,
                "config": self._of.config,
                "folder": str(self._of.folder),
            }
            write(worker, order)
        if 0 not in self._of.own:
            self._await_port()

    def _await_port(self) -> None:
        """Of the store that another agent's process opens; without one the first rank's agent says why."""
        while not self._board.check([self._key("port")]):
            if self._board.check([self._key("stopped")]):
                return
            time.sleep(_LOOK_SECONDS)
        self._tell_port(int(self._board.get(self._key("port"))))

    def _tell_port(self, port: int) -> None:
        for worker in self._attempt.workers:
            if worker.rank != 0:
                write(worker, {"port": port})
