"""A worker of a check that plays a part instead of running lines, and needs no torch.

The order's ``config`` is JSON: by line and rank the act, which is one of the functions below, or "raise"; where left
out the rank does its part.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

_HOLDS = {"state": "holds", "figure": "", "reason": "", "is_slow": False}


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def wait() -> None:
    time.sleep(1000)


def spin(processes: int = 3) -> None:
    """So many processes share a core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [core])
    for _ in range(processes - 1):
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
    while True:
        pass


def end_by(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(1000)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    rank, play = order["rank"], json.loads(order["config"])
    if rank == 0 and order["ranks"] > 1:
        say(port=1)
    for line in order["lines"]:
        act = play.get(line, {}).get(str(rank), [])
        say(begin=line)
        raised = act[1] if act and act[0] == "raise" else ""
        if act and not raised:
            {"wait": wait, "spin": spin, "end_by": end_by}[act[0]](*act[1:])
        say(ended=line, raised=raised)
        if any(other == ["wait"] for other in play.get(line, {}).values()):
            wait()  # for the others, as every worker does
        if rank == 0:
            say(line=line, finding=_HOLDS)
    say(finished=True)


if __name__ == "__main__":
    main()
