"""One rank of a sweep: `torchrun --nproc-per-node 4 -m launch.sweep CONFIG ...`.

Also what `lockstep sweep` starts as its local ranks.
"""

from __future__ import annotations

import os

from launch.process.signals import become_rank

if __name__ == "__main__" and "RANK" in os.environ:
    become_rank()  # before the imports below: an early Ctrl-C must not print their tracebacks

import typer

from engine.progress import Progress
from launch.commands import sweep_options as sweep_opt
from launch.jobs import options as opt
from launch.ranks.rank import Place, run_as_program, run_part
from launch.screens.measurements import print_sweep
from launch.sweep.job import SweepOptions, prepare_sweep
from launch.sweep.run import Written, run_sweep

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def sweep(
    config: opt.ConfigFile,
    prompts: sweep_opt.Prompts,
    output: sweep_opt.Output,
    methods: sweep_opt.Methods = None,
    shares: sweep_opt.Shares = None,
    tune_prompts: sweep_opt.TunePrompts = 3,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    set_: opt.Overrides = None,
) -> int:
    """Run one rank of a sweep; the number of ranks is torchrun's."""
    options = SweepOptions(
        config, prompts, output, methods, shares, tune_prompts, negative_prompt, image, last_image, set_ or ()
    )
    own = Place.own()

    def work(progress: Progress) -> Written | None:
        job = prepare_sweep(options, own.ranks, own.local_ranks, own.rank, own.nodes)
        return run_sweep(job, progress, own.rank)

    return run_part(work, print_sweep, own.rank, own.ranks)


if __name__ == "__main__":
    run_as_program(app)
