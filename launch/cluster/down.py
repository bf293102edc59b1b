"""Ends gangs, in good order if they answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.errors import InvalidInput
from launch.process.signals import say
from launch.queue.lost import LEASE_SECONDS
from launch.queue.processes import own_host
from launch.queue.records import GangRecord
from launch.queue.store import Queue

_LOOK_SECONDS = 0.2


def take_down(names: Sequence[str], state: Path, timeout_seconds: float) -> int:
    """End the gangs of those names, or all, and wait until they are gone. Returns the exit code.

    Args:
        timeout_seconds: after which the server of one that has not ended is killed, if it is on this machine. Its job
            goes on from its newest checkpoint then.

    Raises:
        InvalidInput: there is no such gang, or no queue.
    """
    queue = Queue(state)
    queue.take_back_lost()  # and forget gangs that are dead already
    asked = [name for given in names or (None,) for name in queue.ask_down(given)]
    if not asked:
        say("lockstep: no gang is up")
        return 0
    deadline = time.monotonic() + timeout_seconds
    while left := [gang for gang in queue.gangs() if gang.name in asked]:
        queue.take_back_lost()
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
    command = b""
    with suppress(OSError):
        command = Path(f"/proc/{gang.pid}/cmdline").read_bytes()
    if b"launch.cluster" in command:  # and not another process with the number of one that is gone
        say(f"lockstep: {gang.name} does not answer, and is killed")
        with suppress(ProcessLookupError):
            os.kill(gang.pid, signal.SIGKILL)
