"""Real processes for tests: started once, then lent to one test after another as ranks of any layout.

Starting them costs, so the processes outlive a test; the process groups do not. A call that raises or times out
ends all processes, and the next call starts fresh ones.
"""

import multiprocessing as mp
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from torch.distributed import TCPStore

from parallel.degrees import Degrees

# the fork server imports once what takes seconds to import, and every rank is forked from there
CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engine.engine", "parallel.attention"])
START_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Outcome:
    """What one rank's function returned, or the traceback of what it raised."""

    value: Any = None
    error: str | None = None


class GangError(AssertionError):
    """A rank raised, died or did not answer in time."""


class Gang:
    """Up to ``size`` processes that run functions as ranks over gloo."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], degrees: Degrees, *args: Any, timeout_seconds: float = 60) -> list[Any]:
        """Call ``function(ranks, *args)`` on every rank of a fresh process group; the results in rank order.

        Raises:
            GangError: with every failed rank's traceback.
        """
        outcomes = self.outcomes(function, degrees, *args, timeout_seconds=timeout_seconds)
        failed = {rank: outcome.error for rank, outcome in enumerate(outcomes) if outcome.error}
        if failed:
            raise GangError("\n".join(f"rank {rank}: {error}" for rank, error in failed.items()))
        return [outcome.value for outcome in outcomes]

    def outcomes(
        self, function: Callable[..., Any], degrees: Degrees, *args: Any, timeout_seconds: float = 60
    ) -> list[Outcome]:
        """As :meth:`run`, but errors are returned; a rank that did not answer in time has the error "late"."""
        self._ensure_started()
        count = degrees.world_size
        # the store listens on a port that the system chose and keeps it, so nobody else can take it
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank, pipe in enumerate(self._pipes[:count]):
            pipe.send((function, degrees, args, rank, store.port))
        outcomes = [Outcome(error="late")] * count
        waiting = dict(zip(self._pipes[:count], range(count), strict=True))
        deadline = time.monotonic() + timeout_seconds
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in wait(list(waiting), timeout=left):
                rank = waiting.pop(pipe)  # type: ignore[arg-type]
                try:
                    outcomes[rank] = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    outcomes[rank] = Outcome(error="died")
        if any(outcome.error for outcome in outcomes):
            self.stop()  # their process groups may be stuck in a collective
        return outcomes

    def stop(self) -> None:
        """End all processes at once."""
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []

    def _ensure_started(self) -> None:
        if self._processes:
            return
        for _ in range(self._size):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            if not pipe.poll(START_TIMEOUT_SECONDS):
                self.stop()
                raise GangError(f"A test process was not ready within {START_TIMEOUT_SECONDS} seconds.")
            pipe.recv()


def _serve(pipe: Connection) -> None:
    import torch

    from parallel.ranks import join, leave

    torch.set_num_threads(1)  # ranks share few cores
    pipe.send("ready")
    while True:
        try:
            function, degrees, args, rank, port = pipe.recv()
        except EOFError:
            return
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(degrees.world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the test's, not rank 0's
        }
        try:
            ranks = join(degrees, torch.device("cpu"), timeout_seconds=60)
            outcome = Outcome(value=function(ranks, *args))
            leave()
        except BaseException:
            outcome = Outcome(error=traceback.format_exc())
        pipe.send(outcome)
