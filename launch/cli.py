"""The command `lockstep`: signals first, then the options, and one line for whatever goes wrong.

Each rank that the command starts, or that torchrun starts, is this program with the same arguments.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are handlers: Ctrl-C among these imports prints nothing

import os  # noqa: E402
import sys  # noqa: E402
from typing import NoReturn  # noqa: E402

from launch.process.life import give_sign_of_life  # noqa: E402
from launch.process.quiet import quiet_libraries  # noqa: E402
from launch.process.running import explain, leave, run  # noqa: E402
from launch.process.signals import (  # noqa: E402
    Interrupted,
    become_rank,
    is_rank,
    raise_when_interrupted,
    say,
)
from launch.process.threads import spin_briefly  # noqa: E402


def main() -> NoReturn:
    """Entry point of the installed command and of `python -m launch`."""
    _have_streams()
    if is_rank():
        become_rank()
    else:
        raise_when_interrupted()
    quiet_libraries()
    spin_briefly()
    hush = give_sign_of_life(sys.argv[1:])
    try:
        from launch.commands.app import app  # only now, so that an early Ctrl-C prints no traceback of an import

        code = run(app, ended=hush)
    except Exception as error:
        code = explain(error)
    except (Interrupted, KeyboardInterrupt) as interruption:
        interrupted = interruption if isinstance(interruption, Interrupted) else Interrupted(2)
        say(f"lockstep: {interrupted}")
        code = interrupted.exit_code
    leave(code)


def _have_streams() -> None:
    """Open what was closed on start (`>&-`): Python leaves the stream as None, which nothing that prints expects, and
    the next file to be opened would take its descriptor, and get what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":  # `python -m launch.cli` has been a way to start it for as long as there is one
    main()
