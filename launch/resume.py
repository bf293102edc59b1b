"""One rank of a generation that was broken off: `torchrun --nproc-per-node 4 -m launch.resume FOLDER`.

Also what `lockstep resume` starts as its local ranks.
"""

from __future__ import annotations

import os

from launch.process.signals import become_rank

if __name__ == "__main__" and "RANK" in os.environ:
    become_rank()  # before the imports below: an early Ctrl-C must not print their tracebacks

import typer

from launch.jobs import options as opt
from launch.jobs.folder import JobFolder
from launch.ranks.rank import run_as_program, run_own_rank

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def resume(folder: opt.Folder, set_: opt.Overrides = None) -> int:
    """Run one rank of a generation that was broken off; the number of ranks is torchrun's, and may be another."""
    return run_own_rank(lambda: JobFolder(folder).read(set_ or ()), resume=True)


if __name__ == "__main__":
    run_as_program(app)
