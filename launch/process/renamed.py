"""Old spellings of commands, which go on working for one release."""

from __future__ import annotations

import os
import runpy
import sys

from launch.process.signals import say


def run_renamed(command: str) -> None:
    """Run `python -m launch COMMAND` for somebody who typed `python -m launch.COMMAND`, with a hint on the first rank.

    `generate` and `resume` are a rank wherever RANK is in the environment, as they were under the old spelling. `sweep`
    has no option for that: it is a rank where torchrun has started it.
    """
    if os.environ.get("RANK", "0") == "0":
        say(f"lockstep: type `-m launch {command}`: the old `-m launch.{command}` will be gone in the next release")
    torchrun = ["--launcher=torchrun"] if "RANK" in os.environ and command in ("generate", "resume") else []
    sys.argv[1:] = [command, *torchrun, *sys.argv[1:]]
    runpy.run_module("launch", run_name="__main__")
