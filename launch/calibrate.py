"""One rank of a calibration: `torchrun --nproc-per-node 4 -m launch.calibrate CONFIG ...`.

Also what `lockstep calibrate` starts as its local ranks.
"""

from __future__ import annotations

import os

from launch.process.signals import become_rank

if __name__ == "__main__" and "RANK" in os.environ:
    become_rank()  # before the imports below: an early Ctrl-C must not print their tracebacks

from pathlib import Path

import typer

from engine.progress import Progress
from launch.calibration.job import CalibrateOptions, prepare_calibration
from launch.calibration.run import run_calibration
from launch.commands import sweep_options as sweep_opt
from launch.jobs import options as opt
from launch.ranks.rank import Place, run_as_program, run_part
from launch.screens.measurements import print_calibration

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def calibrate(
    config: opt.ConfigFile,
    prompts: sweep_opt.Prompts,
    output: opt.Calibration,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    set_: opt.Overrides = None,
) -> int:
    """Run one rank of a calibration; the number of ranks is torchrun's."""
    own = Place.own()

    def work(progress: Progress) -> Path | None:
        options = CalibrateOptions(config, prompts, output, set_ or (), negative_prompt, image, last_image)
        job = prepare_calibration(options, own.ranks, own.local_ranks, own.rank, own.nodes)
        return run_calibration(job, progress, own.rank)

    return run_part(work, print_calibration, own.rank, own.ranks)


if __name__ == "__main__":
    run_as_program(app)
