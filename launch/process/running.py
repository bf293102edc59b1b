"""How a typer app runs in this process, and how the process ends."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from launch.process.signals import say

if TYPE_CHECKING:
    import typer


def run(app: typer.Typer, argv: list[str] | None = None) -> int:
    """Parse and run a command; returns its exit code. Refused input is one line on stderr and code 2.

    Args:
        argv: by default ``sys.argv`` without its first word.
    """
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
            pass  # its reader has closed the pipe
    os._exit(code)
