"""How a benchmark runs as a script: refused input is one line and code 2, as for the commands of ``lockstep``."""

import sys
from collections.abc import Callable

import typer

from launch.process.running import run


def run_script(main: Callable[..., None]) -> None:
    """Run the script's function with the options of the command line, and end the process."""
    app = typer.Typer(add_completion=False)
    app.command()(main)
    sys.exit(run(app))
