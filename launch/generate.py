"""One rank of `generate`: `torchrun --nproc-per-node 4 -m launch.generate CONFIG ...`, or on its own.

Also what `lockstep generate` starts as its local ranks, so that both are the same code.
"""

from __future__ import annotations

import os

from launch.process.signals import become_rank

if __name__ == "__main__" and "RANK" in os.environ:
    become_rank()  # before the imports below: an early Ctrl-C must not print their tracebacks

import typer

from launch.jobs import options as opt
from launch.jobs.options import Options
from launch.ranks.rank import run_as_program, run_own_rank

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def generate(
    config: opt.ConfigFile,
    prompt: opt.Prompts = None,
    prompts: opt.PromptsFile = None,
    negative_prompt: opt.NegativePrompt = "",
    seed: opt.Seeds = None,
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    output: opt.Output = None,
    report: opt.Report = None,
    latents: opt.Latents = None,
    audit: opt.Audit = False,
    set_: opt.Overrides = None,
) -> int:
    """Run one rank of a generation; the number of ranks is torchrun's."""
    options = Options.typed(
        config, prompt, prompts, negative_prompt, seed, image, last_image, output, report, latents, audit, set_
    )
    return run_own_rank(lambda: options)


if __name__ == "__main__":
    run_as_program(app)
