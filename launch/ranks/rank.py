"""What one rank does, however it was started and whether it begins or goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import typer

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.cli import leave, run
from launch.jobs.options import Options
from launch.jobs.preparation import Job, prepare
from launch.process.failures import Failure, describe, record, report_here
from launch.process.phase import PhaseKeeper
from launch.process.quiet import own_streams, quiet_libraries
from launch.process.signals import Interrupted, raise_when_interrupted, say
from launch.process.threads import spin_briefly

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Place:
    """Where the environment says that this process is."""

    rank: int
    ranks: int
    local_ranks: int
    nodes: int | None

    @classmethod
    def own(cls) -> Place:
        ranks = int(os.environ.get("WORLD_SIZE", 1))
        nodes = int(os.environ["GROUP_WORLD_SIZE"]) if "GROUP_WORLD_SIZE" in os.environ else None
        return cls(int(os.environ.get("RANK", 0)), ranks, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)), nodes)


def run_own_rank(read_options: Callable[[], Options], resume: bool = False) -> int:
    """Run the rank that the environment names. Returns the exit code."""
    own = Place.own()
    return run_rank(
        lambda: prepare(read_options(), own.ranks, own.local_ranks, own.rank, own.nodes, resume), own.rank, own.ranks
    )


def run_rank(prepare_job: Callable[[], Job], rank: int = 0, ranks: int = 1) -> int:
    """Run this process's part of a job, with progress and summary on rank 0. Returns the exit code."""
    return run_part(lambda progress: _generate(prepare_job(), progress, rank), summarise, rank, ranks)


def run_part(
    work: Callable[[PhaseKeeper], Outcome | None],
    summarise: Callable[[Outcome, IO[str]], None],
    rank: int = 0,
    ranks: int = 1,
) -> int:
    """Run this process's part of any work, with progress on rank 0, and one line if it fails.

    Args:
        work: collective over the ranks; what it returns, if anything, is summarised on stdout.

    Returns:
        The exit code.
    """
    with ExitStack() as closing:
        stdout, stderr = own_streams(closing) if ranks > 1 else (sys.stdout, sys.stderr)
        with ExitStack() as drawing:  # ends before anything else is printed
            progress = PhaseKeeper(display(stderr, drawing) if rank == 0 else Progress())
            failure: Failure | None = None
            try:
                outcome = work(progress)
            except Exception as error:
                failure = describe(error, rank, progress.phase)
                record(failure)
        if failure is not None:
            report_here(failure)
            return failure.exit_code
        if outcome is not None:
            try:
                summarise(outcome, stdout)
            except OSError:
                pass  # a full or closed stdout; the files are written
    return 0


def _generate(job: Job, progress: PhaseKeeper, rank: int) -> list[dict[str, Any]] | None:
    """Load, generate, close. Collective: every rank calls it. Returns the run reports on rank 0."""
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.engine import Engine

    for line in job.notes:
        progress.note(line)
    with at_work(job, rank):
        engine = Engine.load(job.config, job.degrees, progress)
        made = engine.generate_all(job.tasks_left)
        engine.close()
        if made is None:
            return None
        job.clean_up()
        return job.all_reports(made)


@contextmanager
def at_work(job: Job, rank: int) -> Iterator[None]:
    """To make a job's videos in: leave the job where a later run finds it, and keep other runs away from there."""
    if job.folder is None or rank != 0:
        yield
        return
    with job.folder.hold():
        job.folder.write(job.options, job.config)
        yield


def display(stderr: IO[str], closing: ExitStack) -> Progress:
    """Progress as a person sees it, until ``closing`` ends."""
    from launch.screens.console import Display

    drawn = Display(stderr)
    closing.callback(drawn.close)
    return drawn


def summarise(reports: list[dict[str, Any]], stdout: IO[str]) -> None:
    """Print where the videos are and what they took."""
    from launch.screens.console import print_summary

    print_summary(reports, stdout)


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
