"""What `lockstep cluster up` leaves running: the server of a gang, and this supervisor, which starts it again.

Ray exits the process of a driver that has not reached the cluster's head node for a minute; the driver cannot prevent
that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from launch.process.signals import ENDING
from launch.process.stamps import stamped

ORDERLY = 70
"""Exit code of a server that has reported why it cannot go on."""
RAY_LOST = 71
"""Exit code of a server whose Ray is gone, and which is started again at once."""
_REPLY, _LOG = "--reply=", "--log="  # options for the first server alone
_PATIENCE_SECONDS = 600.0  # how long a server that is started again waits for the cluster
_MAX_DEATHS = 5  # in a row
_STEADY_SECONDS = 600.0  # a server that ran for longer begins a new row


def supervise(arguments: Sequence[str]) -> int:
    """Run a server until it exits by itself, is killed by a signal, or has died too often in a row.

    Args:
        arguments: of :mod:`launch.cluster.serve`.

    Returns:
        The exit code.
    """
    servers: list[subprocess.Popen[bytes]] = []
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if servers:
            servers[-1].send_signal(signal.SIGTERM)

    for signum in ENDING:
        signal.signal(signum, stop)
    died = 0
    while True:
        started = time.monotonic()
        servers.append(subprocess.Popen([sys.executable, "-m", "launch.cluster.serve", *arguments], close_fds=False))
        for argument in arguments:
            if argument.startswith(_REPLY):  # closed here, so that `cluster up` sees its end when the server ends
                os.close(int(argument.removeprefix(_REPLY)))
        code = servers[-1].wait()
        died = 1 if time.monotonic() - started > _STEADY_SECONDS else died + 1
        # one that is killed is not started again: somebody wants it to end
        if stopping or code in (0, ORDERLY, -signal.SIGKILL, -signal.SIGTERM) or died > _MAX_DEATHS:
            return max(code, 0)
        why = "has lost its Ray" if code == RAY_LOST else f"died (exit code {code})"
        print(stamped(f"the server {why}: it is started again"), file=sys.stderr, flush=True)
        arguments = [f"--patience={_PATIENCE_SECONDS:g}", *(a for a in arguments if not a.startswith((_REPLY, _LOG)))]


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
