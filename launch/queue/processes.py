"""Whether a process on this machine is still running.

Read from /proc and not with psutil: its create_time adds the boot time, which moves when the system clock is set, so a
value that is kept in the queue would name another process afterwards. Fields of /proc/PID/stat do not move.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def own_host() -> str:
    """The host name of this machine, for messages."""
    return socket.gethostname()


def own_pid_namespace() -> str | None:
    """A name for the set of processes among which a pid is unique: those of this container, or of this machine since
    it was booted. None where the system does not say.

    The host name alone would not do: containers on two machines may share one.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def start_ticks(pid: int) -> str | None:
    """When a process of this PID namespace was started, in clock ticks since the boot; None if it has ended.

    Together with the pid it identifies one process: pids are used again.
    """
    try:
        # the name of the program, in parentheses, may contain spaces and parentheses
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started  # a zombie has ended
