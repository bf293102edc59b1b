"""The command `lockstep`: signals first, then the options, and one line for whatever goes wrong.

Each rank that the command starts, or that torchrun starts, is this program with the same arguments.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from launch.process.life import give_sign_of_life
from launch.process.quiet import quiet_libraries
from launch.process.running import leave, run
from launch.process.signals import Interrupted, become_rank, is_rank, raise_when_interrupted, say
from launch.process.threads import spin_briefly


def main() -> NoReturn:
    """Entry point of the installed command and of `python -m launch`."""
    if is_rank():
        become_rank()
    else:
        raise_when_interrupted()
    _have_streams()
    quiet_libraries()
    spin_briefly()
    give_sign_of_life(sys.argv[1:])
    try:
        from launch.commands.app import app  # only now, so that an early Ctrl-C prints no traceback of an import

        code = run(app)
    except (Interrupted, KeyboardInterrupt) as interruption:
        interrupted = interruption if isinstance(interruption, Interrupted) else Interrupted(2)
        say(f"lockstep: {interrupted}")
        code = interrupted.exit_code
    leave(code)


def _have_streams() -> None:
    """Python leaves a stream that was closed on start (`>&-`) as None, which nothing that prints expects."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":  # `python -m launch.cli` has been a way to start it for as long as there is one
    main()
