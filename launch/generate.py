"""One rank of `generate`: `torchrun --nproc-per-node 4 -m launch.generate CONFIG ...`, or on its own.

Also what `lockstep generate` starts as its local ranks, so that both are the same code.
"""

from __future__ import annotations

import os
import sys

from launch.signals import become_rank, raise_when_interrupted

if __name__ == "__main__" and "RANK" in os.environ:
    become_rank()  # before the imports below: an early Ctrl-C must not print their tracebacks

from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any

import typer

from engine.progress import Progress
from launch import options as opt
from launch.cli import leave, run
from launch.failures import Failure, describe, record, report_here
from launch.job import Job, prepare
from launch.options import Options
from launch.phase import PhaseKeeper
from launch.quiet import own_streams, quiet_libraries
from launch.signals import Interrupted, say
from launch.threads import spin_briefly

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
    options = Options(
        config,
        prompt or (),
        prompts,
        negative_prompt,
        seed or (0,),
        image,
        last_image,
        output,
        report,
        latents,
        audit,
        set_ or (),
    )
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    nodes = int(os.environ["GROUP_WORLD_SIZE"]) if "GROUP_WORLD_SIZE" in os.environ else None
    return run_rank(lambda: prepare(options, ranks, local_ranks, rank, nodes), rank, ranks)


def run_rank(prepare_job: Callable[[], Job], rank: int = 0, ranks: int = 1) -> int:
    """Run this process's part of a job, with progress and summary on rank 0. Returns the exit code."""
    with ExitStack() as closing:
        stdout, stderr = own_streams(closing) if ranks > 1 else (sys.stdout, sys.stderr)
        with ExitStack() as drawing:  # ends before anything else is printed
            progress = PhaseKeeper(_display(stderr, drawing) if rank == 0 else Progress())
            failure: Failure | None = None
            try:
                reports = _generate(prepare_job(), progress)
            except Exception as error:
                failure = describe(error, rank, progress.phase)
                record(failure)
        if failure is not None:
            report_here(failure)
            return failure.exit_code
        if reports is not None:
            _summarise(reports, stdout)
    return 0


def _generate(job: Job, progress: PhaseKeeper) -> list[dict[str, Any]] | None:
    """Load, generate, close. Collective: every rank calls it. Returns the run reports on rank 0."""
    from engine.engine import Engine  # imports torch and diffusers, which takes seconds

    for line in job.notes:
        progress.note(line)
    engine = Engine.load(job.config, job.degrees, progress)
    reports = engine.generate_all(job.tasks)
    engine.close()
    return reports


def _display(stderr: IO[str], closing: ExitStack) -> Progress:
    from launch.console import Display

    display = Display(stderr)
    closing.callback(display.close)
    return display


def _summarise(reports: list[dict[str, Any]], stdout: IO[str]) -> None:
    from launch.console import print_summary

    try:
        print_summary(reports, stdout)
    except OSError:
        pass  # a full or closed stdout; the files are written


if __name__ == "__main__":
    if "RANK" not in os.environ:
        raise_when_interrupted()
    quiet_libraries()
    spin_briefly()
    try:
        code = run(app)
    except Interrupted as interrupted:
        say(f"lockstep: {interrupted}")
        code = interrupted.exit_code
    leave(code)
