"""Ends gangs: each is asked to, and killed if it does not answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from engine.errors import InvalidInput
from launch.process.signals import say
from launch.queue.lost_gangs import LEASE_SECONDS
from launch.queue.processes import own_host
from launch.queue.records import GangRecord
from launch.queue.store import Queue

_LOOK_SECONDS = 0.2


def take_down(names: Sequence[str], state: Path, timeout_seconds: float) -> int:
    """End the gangs of those names, or all, and wait until they have ended. Returns the exit code.

    Args:
        timeout_seconds: after which the server of a gang that has not ended is killed, if it is on this machine. Its
            job is then resumed by another gang from its newest checkpoint.

    Raises:
        InvalidInput: there is no such gang, or no queue, or a gang on another machine does not answer.
    """
    queue = Queue(state, waiting=lambda line: say(f"lockstep: {line}"))
    queue.requeue_lost()  # also removes gangs that are dead already
    asked = [name for given in names or (None,) for name in queue.ask_down(given)]
    if not asked:
        say("lockstep: no gang is up")
        return 0
    deadline = time.monotonic() + timeout_seconds
    while left := [gang for gang in queue.gangs() if gang.name in asked]:
        queue.requeue_lost()
        if time.monotonic() > deadline:
            for gang in left:
                _kill(gang)
            deadline += LEASE_SECONDS
        time.sleep(_LOOK_SECONDS)
    for name in asked:
        print(f"{name} is down")
    return 0


def _kill(gang: GangRecord) -> None:
    if gang.host != own_host():
        raise InvalidInput(f"{gang.name} does not answer, and is on {gang.host}: end process {gang.pid} there.")
    with suppress(psutil.Error):
        process = psutil.Process(gang.pid)
        # the number may be another process's by now
        if any(argument.startswith("launch.cluster") for argument in process.cmdline()):
            say(f"lockstep: {gang.name} does not answer, and is killed")
            process.kill()
