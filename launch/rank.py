"""What one rank does, however it was started and whether it begins or goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any

import typer

from engine.progress import Progress
from launch.cli import leave, run
from launch.failures import Failure, describe, record, report_here
from launch.job import Job, prepare
from launch.options import Options
from launch.phase import PhaseKeeper
from launch.quiet import own_streams, quiet_libraries
from launch.signals import Interrupted, raise_when_interrupted, say
from launch.threads import spin_briefly


def run_own_rank(read_options: Callable[[], Options], resume: bool = False) -> int:
    """Run the rank that the environment names. Returns the exit code."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    nodes = int(os.environ["GROUP_WORLD_SIZE"]) if "GROUP_WORLD_SIZE" in os.environ else None
    return run_rank(lambda: prepare(read_options(), ranks, local_ranks, rank, nodes, resume), rank, ranks)


def run_rank(prepare_job: Callable[[], Job], rank: int = 0, ranks: int = 1) -> int:
    """Run this process's part of a job, with progress and summary on rank 0. Returns the exit code."""
    with ExitStack() as closing:
        stdout, stderr = own_streams(closing) if ranks > 1 else (sys.stdout, sys.stderr)
        with ExitStack() as drawing:  # ends before anything else is printed
            progress = PhaseKeeper(_display(stderr, drawing) if rank == 0 else Progress())
            failure: Failure | None = None
            try:
                reports = _generate(prepare_job(), progress, rank)
            except Exception as error:
                failure = describe(error, rank, progress.phase)
                record(failure)
        if failure is not None:
            report_here(failure)
            return failure.exit_code
        if reports is not None:
            _summarise(reports, stdout)
    return 0


def _generate(job: Job, progress: PhaseKeeper, rank: int) -> list[dict[str, Any]] | None:
    """Load, generate, close. Collective: every rank calls it. Returns the run reports on rank 0."""
    from engine.engine import Engine  # imports torch and diffusers, which takes seconds

    for line in job.notes:
        progress.note(line)
    left = [index for index in range(len(job.tasks)) if index not in job.finished]
    if job.folder and rank == 0:
        job.folder.write(job.options, job.config)
    engine = Engine.load(job.config, job.degrees, progress)
    made = engine.generate_all([job.tasks[index] for index in left])
    engine.close()
    if made is None:
        return None
    if job.folder:
        job.folder.remove()
    reports = {**job.finished, **dict(zip(left, made, strict=True))}
    return [reports[index] for index in range(len(job.tasks))]


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


def run_as_program(app: typer.Typer) -> None:
    """Be the process of a rank: under torchrun, under `lockstep`, or alone; does not return."""
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
