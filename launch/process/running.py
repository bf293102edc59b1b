"""How a typer app runs in this process, and how the process ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from launch.process.packages import unfit_packages
from launch.process.signals import raise_if_interrupted, say

if TYPE_CHECKING:
    import typer


def run(app: typer.Typer, argv: list[str] | None = None, ended: Callable[[], None] = lambda: None) -> int:
    """Parse and run a command; returns its exit code. Refused input is one line on stderr and code 2.

    Args:
        argv: by default ``sys.argv`` without its first word.
        ended: called when the command has ended, before anything is said of its end.
    """
    import typer

    from engine.errors import InvalidInput, sentence

    usage_error: Any = typer.BadParameter.__bases__[0]  # typer gives its UsageError no public name
    try:
        command = typer.main.get_command(app)
        try:
            return command.main(args=argv, prog_name="lockstep", standalone_mode=False) or 0
        finally:
            ended()
    except usage_error as error:
        text = " ".join(error.format_message().split())
        say(f"lockstep: {text.rstrip('.')}: see lockstep --help.")
        return 2
    except InvalidInput as error:
        say(f"lockstep: {sentence(error)}")
        return 2
    except BrokenPipeError:  # `lockstep config ... | head`
        return 0
    except Exception as error:
        raise_if_interrupted()  # a library may have caught what a signal raised
        return explain(error)


def explain(error: Exception) -> int:
    """Say in one line what nobody has caught; returns the exit code. With LOCKSTEP_TRACEBACK=1 with its traceback."""
    if os.environ.get("LOCKSTEP_TRACEBACK"):
        say("".join(traceback.format_exception(error)).rstrip())
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    advice = "LOCKSTEP_TRACEBACK=1 shows where"
    if isinstance(error, ImportError | AttributeError):
        advice = unfit_packages() or advice
    say(f"lockstep: {text}: {advice}.")
    return 1


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads of libraries, once everything has been written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            pass  # its reader has closed the pipe
        except (OSError, ValueError) as error:
            if stream is sys.stdout and code == 0:
                code = explain(error)
    os._exit(code)


def discard_stdout() -> None:
    """Forget what could not be written to stdout, and all that would come: the work itself is done."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
