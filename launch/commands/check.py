"""The command `check`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from launch.commands import options as opt
from launch.commands.ranks import refuse_address_without_ray, run_work
from launch.process.signals import say
from launch.ranks.place import Launcher, find_place

if TYPE_CHECKING:
    from launch.check.document import CheckDocument

CheckRanks = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        parser=opt.whole_number,
        help="Processes on this machine; by default one for each GPU, or two on a machine without.",
    ),
]
CheckReport = Annotated[
    Path | None, typer.Option("--report", help="Write the lines as JSON (docs/check.md); an older file is replaced.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="LINE", help="Run the lines whose names begin so. Can be repeated."),
]


def check(
    ranks: CheckRanks = None,
    report: CheckReport = None,
    only: Only = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
) -> int:
    """Prove the engine on this machine, line by line: results, kernels, links, faults; exit code 1 if one falls
    short."""
    from launch.check.job import CheckOptions, prepare_check
    from launch.check.run import run_check, run_check_here
    from launch.check.screen import print_check

    refuse_address_without_ray(launcher, ray_address)
    options = CheckOptions(report, only or ())
    short: list[str] = []

    def summarise(document: CheckDocument, stream: IO[str]) -> None:
        print_check(document, stream)
        short.extend(line.name for line in document.short)
        if document.complaint:
            short.append("report")
            say(f"lockstep: {document.complaint}")

    place = find_place(launcher, ranks)
    if launcher is not Launcher.RAY and place.is_launcher:
        from launch.ranks.rank import run_part

        # all ranks are processes of this one, which is none of them: a line may end them
        job = prepare_check(options, place)
        code = run_part(
            lambda progress: run_check_here(job, progress, 0), summarise, replace(place, ranks=None, rank=0)
        )
    else:
        code = run_work(launcher, ranks, ray_address, lambda place: prepare_check(options, place), run_check, summarise)
    sys.stdout.flush()
    return code or int(bool(short))
