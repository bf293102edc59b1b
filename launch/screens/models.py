"""What `lockstep models` prints: the published models, their tasks, layouts and memory."""

from __future__ import annotations

import textwrap
from typing import IO, get_args

from rich import box
from rich.table import Table
from rich.text import Text

from dicache.pairs import MethodName
from engine.cost.memory import Offload, choose_degrees, estimate, num_branches
from engine.errors import InvalidInput
from engine.models.catalog import CATALOG, PublishedModel
from launch.screens.console import draws_unicode, make_console
from parallel.degrees import Degrees

TABLED = ("teacache", "magcache")
"""Methods that need numbers of the model, and run where their authors publish them."""
MEASURED = ("calibrated",)
"""Methods that need numbers of the model, and run where `lockstep calibrate` has measured them."""
_LARGEST = 1024
_NOTE_WIDTH = 110  # beside the label, on a pipe's 120 columns


def print_models(ranks: int, stream: IO[str]) -> None:
    """Print a table of the models, and below it what holds for all of them.

    Args:
        ranks: that make one video together; the table has their memory beside that of one GPU.

    Raises:
        InvalidInput: there is no such number of ranks; one sentence.
    """
    if not 1 <= ranks <= _LARGEST:
        raise InvalidInput(f"--ranks is {ranks}, but it should be a number from 1 to {_LARGEST}.")
    counts = (1, ranks) if ranks > 1 else (1,)
    console = make_console(stream)
    times = "×" if draws_unicode(console) else "x"
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in ("model and recipe", "tasks", "video", "ulysses", "cfg", *(f"GB on {count}" for count in counts)):
        # folded, never cut: a narrow terminal shows the same in more lines
        table.add_column(name, overflow="fold", justify="right" if name.startswith("GB") else "left")
    for model in CATALOG:
        table.add_row(
            Text.assemble((model.name, "bold"), f"\n{model.recipe}"),
            "\n".join(model.tasks),
            f" {times} ".join(map(str, model.video)),
            " ".join(map(str, ulysses_degrees(model))),
            "1 or 2" if num_branches(model) == 2 else "1",
            *(str(gigabytes(model, count)) for count in counts),
        )
    console.print(table)
    console.print()
    for label, text in notes():
        for line in textwrap.wrap(text, _NOTE_WIDTH, break_on_hyphens=False):
            console.print(Text.assemble((f"{label:<9}", "bold"), line))
            label = ""


def notes() -> list[tuple[str, str]]:
    """What holds for all models, as (label, text) pairs."""
    methods = get_args(MethodName)
    return [
        ("recipes", "are in configs/"),
        ("layouts", "data and ring take any number of ranks; parallel: auto chooses"),
        ("weights", "parallel.shard_weights shares them out over the ranks of a replica"),
        ("cache", ", ".join(method for method in methods if method not in TABLED + MEASURED) + " for all"),
        (
            "",
            f"{' and '.join(TABLED)} for those with published numbers; these and {', '.join(MEASURED)} after "
            "lockstep calibrate",
        ),
        ("memory", "on each GPU, computed for the recipe's video in bfloat16 with dicache: docs/models.md"),
    ]


def ulysses_degrees(model: PublishedModel) -> list[int]:
    """The degrees above 1 that divide the number of attention heads."""
    heads = model.facts.num_heads
    return [degree for degree in range(2, heads + 1) if heads % degree == 0]


def gigabytes(model: PublishedModel, ranks: int, shard_weights: bool = False, offload: Offload = "experts") -> int:
    """The memory in 10⁹ bytes on each of ``ranks`` GPUs of one machine that make one video together."""
    degrees: Degrees = choose_degrees(model, ranks)
    return round(estimate(model, degrees, shard_weights, offload=offload).peak / 1e9)
