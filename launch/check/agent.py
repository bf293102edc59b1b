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
from launch.check.finding import Finding, falls_short
from launch.check.starting import Assignment, Worker, ending, last_words, listen, start_worker, write
from launch.check.table import Line

_LOOK_SECONDS = 0.1
_START_SECONDS = 180.0


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
        line, reason = left[done], stopped
        if 0 in assignment.own:
            audience.told(line, falls_short("", reason))
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
        self._attempt = attempt
        self._audience = audience
        self._done = 0
        self._has_begun = False
        self._deadline = time.monotonic() + _START_SECONDS

    def run(self) -> tuple[int, str | None]:
        """How many lines are done, and why the next one ended this start; None if it did not."""
        leads = 0 in self._of.own
        self._start()
        while True:
            with suppress(Empty):
                self._hear(*self._attempt.said.get(timeout=_LOOK_SECONDS))
                continue  # all that was said comes before the end of its process is looked at
            self._audience.alive()
            if self._board.check([self._key("stopped")]):
                done, reason = json.loads(self._board.get(self._key("stopped")))
                return done, reason
            if all(worker.is_finished for worker in self._attempt.workers) and self._is_over(leads):
                return self._done, None
            if (reason := self._trouble(leads)) is not None:
                self._give_up(reason, leads)
            elif leads and self._board.check([self._key("lost")]):
                self._give_up(self._board.get(self._key("lost")).decode(), leads)

    def _is_over(self, leads: bool) -> bool:
        """Whether no other agent can have trouble any more."""
        if leads:
            self._board.set(self._key("over"), "")
        return self._board.check([self._key("over")])

    def _trouble(self, leads: bool) -> str | None:
        for worker in self._attempt.workers:
            code = worker.process.poll()
            if code is not None and not worker.is_finished:
                return f"the process of rank {worker.rank} {ending(code)}{last_words(worker.log)}"
        if leads and time.monotonic() > self._deadline:
            name = self._order[self._done]
            if not self._has_begun:
                return f"it did not begin within {_START_SECONDS:g} s: a rank's process did not start"
            late = [str(worker.rank) for worker in self._attempt.workers if worker.ended != name]
            whose = f"; rank {', '.join(late)} had not done its part" if len(late) < self._of.ranks else ""
            return f"it did not end within {self._lines[name].seconds(self._of.kind):g} s{whose}"
        return None

    def _give_up(self, reason: str, leads: bool) -> None:
        """The first rank's agent knows which line was running, so it is the one that ends the start."""
        if leads:
            self._board.set(self._key("stopped"), json.dumps([self._done, reason]))
        elif not self._board.check([self._key("lost")]):
            self._board.set(self._key("lost"), reason)

    def _hear(self, worker: Worker, message: Mapping[str, Any]) -> None:
        if "port" in message:
            self._board.set(self._key("port"), str(message["port"]))
            self._tell_port(message["port"])
        elif "begin" in message and worker.rank == 0:
            line, self._has_begun = self._lines[message["begin"]], True
            self._deadline = time.monotonic() + line.seconds(self._of.kind)
            self._audience.began(line)
        elif "ended" in message:
            worker.ended = message["ended"]
        elif "line" in message:
            self._done, self._has_begun = self._done + 1, False
            self._deadline = time.monotonic() + _START_SECONDS
            self._audience.told(self._lines[message["line"]], Finding.model_validate(message["finding"]))
        elif "finished" in message:
            worker.is_finished = True

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
