"""What `lockstep cluster up` leaves running: the server of a gang, and this process, which starts it again.

Ray ends the process of a driver that has lost the cluster's head for a minute, without a chance to do anything.
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

ORDERLY = 70
"""Exit code of a server that has said why it cannot go on."""
_REPLY, _LOG = "--reply=", "--log="  # options that are for the first server alone
_PATIENCE_SECONDS = 600.0  # that a server which is started again waits for the cluster
_TRIES = 5
_STEADY_SECONDS = 600.0


def supervise(arguments: Sequence[str]) -> int:
    """Run a server until it ends of itself, is killed, or has died too often in a row. Returns the exit code."""
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
            if argument.startswith(_REPLY):  # of which the server alone holds the end that is written to from now on
                os.close(int(argument.removeprefix(_REPLY)))
        code = servers[-1].wait()
        died = 1 if time.monotonic() - started > _STEADY_SECONDS else died + 1
        # whoever kills it means it
        if stopping or code in (0, ORDERLY, -signal.SIGKILL, -signal.SIGTERM) or died > _TRIES:
            return max(code, 0)
        print(f"the server died (exit code {code}): it is started again", file=sys.stderr, flush=True)
        arguments = [f"--patience={_PATIENCE_SECONDS:g}", *(a for a in arguments if not a.startswith((_REPLY, _LOG)))]


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
