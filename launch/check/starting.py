"""Processes of a check: one for each rank, in a group with all that its lines start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from launch.check.finding import Finding, falls_short, not_here
from launch.process.signals import ENDING, PARENT_PID
from launch.process.threads import count_cores
from launch.ranks.local import checkout_environment

# nobody in Lockstep sends these to a process of a check
_ASKED = (*ENDING, signal.SIGHUP)


@dataclass(frozen=True)
class Assignment:
    """What an agent has to do.

    ranks: the world size. own: of these, in this agent's processes. local_ranks: on this machine. config: of the small
    model, as JSON. folder: for files that nobody needs afterwards. program: the module that a rank's process runs.
    """

    ranks: int
    own: Sequence[int]
    local_ranks: int
    kind: str
    config: str
    address: str
    folder: Path
    program: str = "launch.check.worker"


@dataclass
class Worker:
    """One rank's process, and what it has said."""

    rank: int
    process: subprocess.Popen[str]
    log: Path
    ended: str = ""
    """The line of which it did its part last."""
    is_finished: bool = False


def start_worker(of: Assignment, rank: int, number: int) -> Worker:
    """Start a rank's process, which waits for its order.

    Args:
        number: of the start, from 0.
    """
    log = of.folder / f"rank{rank}-{number}.log"
    environment = _environment(of, rank)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", of.program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # so that all that a line starts is in one group with it, and ends with it
        )
    return Worker(rank, process, log)


def _environment(of: Assignment, rank: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in (PARENT_PID, "TORCHELASTIC_ERROR_FILE")}
    environment = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, count_cores() // of.local_ranks))),
        **kept,
        **checkout_environment(),
        "RANK": str(rank),
        "WORLD_SIZE": str(of.ranks),
        "MASTER_ADDR": of.address,
    }
    if len(of.own) == of.ranks:  # else a launcher has said which device is this rank's
        environment |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(of.ranks)}
    return environment


def listen(worker: Worker, said: Queue[tuple[Worker, dict[str, Any]]]) -> None:
    """Put what the process says into a queue, until it has ended. For a thread of its own."""
    assert worker.process.stdout is not None
    with suppress(ValueError, OSError):  # the pipe was closed
        for line in worker.process.stdout:
            said.put((worker, json.loads(line)))


def write(worker: Worker, message: Mapping[str, Any]) -> None:
    """Say something to the process."""
    assert worker.process.stdin is not None
    with suppress(OSError):  # it has died, which is seen elsewhere
        worker.process.stdin.write(json.dumps(message) + "\n")
        worker.process.stdin.flush()


def family(workers: Sequence[Worker]) -> list[int]:
    """The living processes of some ranks, and those that their lines have started, by id."""
    import psutil

    found = []
    for worker in workers:
        with suppress(psutil.Error):
            own = psutil.Process(worker.process.pid)
            found += [own.pid, *(child.pid for child in own.children(recursive=True))]
    return found


def ending(worker: Worker, code: int) -> Finding:
    """What a line comes to whose process ended with that return code."""
    whose = f"the process of rank {worker.rank}"
    if -code in _ASKED:
        return not_here(f"{whose} was ended by {signal.Signals(-code).name}, which nothing in the check sends")
    return falls_short("", f"{whose} {_how(code)}{_last_words(worker.log)}")


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _last_words(log: Path) -> str:
    """The last line that it wrote to stderr, in brackets."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f" ({lines[-1][:160]})" if lines else ""
