"""What one rank does, however it was started and whatever the work is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any, TypeVar

from engine.progress import Progress
from launch.process.failures import Failure, describe, record, report_here
from launch.process.phase import PhaseKeeper
from launch.process.quiet import own_streams
from launch.process.running import discard_stdout
from launch.process.signals import raise_if_interrupted
from parallel.place import Place

Outcome = TypeVar("Outcome")


def run_part(
    work: Callable[[PhaseKeeper], Outcome | None],
    summarise: Callable[[Outcome, IO[str]], None],
    place: Place,
) -> int:
    """Run this process's part of any work, with progress on rank 0, and one line if it fails.

    Args:
        work: collective over the ranks; what it returns, if anything, is summarised on stdout.
        place: of a rank.

    Returns:
        The exit code.
    """
    rank, ranks = place.rank or 0, place.ranks or 1
    with ExitStack() as closing:
        stdout, stderr = own_streams(closing) if ranks > 1 else (sys.stdout, sys.stderr)
        with ExitStack() as drawing:  # ends before anything else is printed
            progress = PhaseKeeper(display(stderr, drawing, place.ranks, place.nodes) if rank == 0 else Progress())
            failure: Failure | None = None
            try:
                outcome = work(progress)
            except Exception as error:
                raise_if_interrupted()
                failure = describe(error, rank, progress.phase)
                record(failure)
        if failure is not None:
            report_here(failure)
            return failure.exit_code
        if outcome is not None:
            try:
                summarise(outcome, stdout)
            except OSError:  # a full or closed stdout; the files are written
                discard_stdout()
    return 0


def display(stderr: IO[str], closing: ExitStack, ranks: int | None = None, machines: int | None = None) -> Progress:
    """Progress as a person sees it, until ``closing`` ends.

    Args:
        ranks: the world size, if it is known. machines: that they are on, if that is known.
    """
    from launch.screens.progress import display_on

    shown = display_on(stderr, ranks, machines)
    closing.callback(shown.close)
    return shown


def summarise(reports: list[dict[str, Any]], stdout: IO[str]) -> None:
    """Print where the videos are and what they took."""
    from launch.screens.summary import print_summary

    print_summary(reports, stdout)
