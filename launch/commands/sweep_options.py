"""The options of `sweep`: one list for the command, for torchrun and for local ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.jobs.options import whole_number

Prompts = Annotated[Path, typer.Option("--prompts", help="A text file with a prompt a line; its place is its seed.")]
Output = Annotated[
    Path, typer.Option("--output", help="Folder for results; a sweep that broke off goes on from what is there.")
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Names with commas between them, or a YAML file with a list of cache sections; by default every method "
        "that the model allows.",
    ),
]
Shares = Annotated[
    str | None,
    typer.Option("--shares", help="Find settings that skip these shares of the steps, in percent: 50,60,70."),
]
TunePrompts = Annotated[
    int, typer.Option("--tune-prompts", parser=whole_number, help="How many of the prompts to find them on.")
]
