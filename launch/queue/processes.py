"""Whether a process lives, where that can be seen from here."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def own_host() -> str:
    """The name of this machine, for people."""
    return socket.gethostname()


def own_realm() -> str | None:
    """What processes that can see one another share: the machine since it was booted, and its container.

    The host's name alone would not do: containers on two machines may have the same one, and see no process of the
    other. None where the system does not say.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def birth(pid: int) -> str | None:
    """When a process of this realm began, in ticks since the machine was booted; None if there is none any more.

    Together with the pid it names one process: pids are used again.
    """
    try:
        # the name of the program, in brackets, may hold spaces and brackets of its own
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started  # a zombie does nothing any more
