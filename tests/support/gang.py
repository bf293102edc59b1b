"""Real processes for tests: started once, then lent to one test after another as ranks of any layout.

Starting them costs, so the processes outlive a test, and their process groups the next call of the same layout. A call
that raises or times out ends all processes, and the next call starts fresh ones.
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
JOIN_TIMEOUT_SECONDS = 60


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
        self._joined: Degrees | None = None  # the layout of the last call, whose ranks are still joined
        self._store: TCPStore | None = None  # at which they met
        self._stores = 0  # until now, for a port may come back

    def run(self, function: Callable[..., Any], degrees: Degrees, *args: Any, timeout_seconds: float = 60) -> list[Any]:
        """Call ``function(ranks, *args)`` on every rank of a process group; the results in rank order.

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
        # replicas count their work in the store, each time from zero
        if degrees != self._joined or degrees.data > 1 or self._store is None:
            # it listens on a port that the system chose and keeps it, so nobody else can take it
            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            self._stores += 1
        self._joined = degrees
        for rank, pipe in enumerate(self._pipes[:count]):
            pipe.send((function, degrees, args, rank, self._store.port, self._stores))
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
        self._joined = self._store = None

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
    from torch.distributed import is_initialized

    from parallel.ranks import join, leave, set_timeouts

    torch.set_num_threads(1)  # ranks share few cores
    pipe.send("ready")
    joined_at, ranks = 0, None  # number of the store, and what joining there gave
    while True:
        try:
            function, degrees, args, rank, port, store = pipe.recv()
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
            if store != joined_at or not is_initialized():  # a function may have left
                leave()
                ranks, joined_at = join(degrees, torch.device("cpu"), JOIN_TIMEOUT_SECONDS), store
            set_timeouts(JOIN_TIMEOUT_SECONDS)  # the last call may have left others
            outcome = Outcome(value=function(ranks, *args))
        except BaseException:
            outcome = Outcome(error=traceback.format_exc())
        pipe.send(outcome)
