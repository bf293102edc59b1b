"""The command `lockstep`: signals first, then the options, and one line for whatever goes wrong."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from launch.process.quiet import quiet_libraries
from launch.process.signals import Interrupted, raise_when_interrupted, say
from launch.process.threads import spin_briefly

if TYPE_CHECKING:
    import typer


def main() -> NoReturn:
    """Entry point of the installed command."""
    raise_when_interrupted()
    _have_streams()
    quiet_libraries()
    spin_briefly()
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


def run(app: typer.Typer, argv: list[str] | None = None) -> int:
    """Parse and run a command; returns its exit code. Refused input is one line on stderr and code 2."""
    import typer

    from engine.errors import InvalidInput, sentence

    usage_error: Any = typer.BadParameter.__bases__[0]  # typer gives its UsageError no public name
    try:
        command = typer.main.get_command(app)
        return command.main(args=argv, prog_name="lockstep", standalone_mode=False) or 0
    except usage_error as error:
        text = " ".join(error.format_message().split())
        say(f"lockstep: {text.rstrip('.')}: see lockstep --help.")
        return 2
    except InvalidInput as error:
        say(f"lockstep: {sentence(error)}")
        return 2
    except BrokenPipeError:  # `lockstep config ... | head`
        return 0


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads of libraries, once everything has been written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more
    os._exit(code)


if __name__ == "__main__":
    main()
