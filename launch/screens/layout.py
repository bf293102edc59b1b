"""What `lockstep layout` prints: the layout of the ranks, the reasons, and a table of its process groups."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import IO

from rich import box
from rich.table import Table
from rich.text import Text

from engine.checks.layout import lay_out
from engine.checks.model import check_size
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts, read_facts
from engine.models.hub import resolve_model
from engine.models.published import find_published
from launch.jobs.notes import describe_layout
from launch.screens.console import make_console
from parallel.degrees import Degrees
from parallel.place import Place

_LARGEST = 1024


def print_layout(config: Config, nodes: int, devices: int, stream: IO[str]) -> None:
    """Print the layout of a run on that many machines, why, and a table of its groups. Nothing is downloaded: a
    published model need not be here, for its sizes are known.

    Args:
        nodes: machines.
        devices: ranks on each.

    Raises:
        InvalidInput: there is no such layout, or the model is neither here nor published; one sentence.
    """
    for option, count in (("--nodes", nodes), ("--devices", devices)):
        if not 1 <= count <= _LARGEST:
            raise InvalidInput(f"{option} is {count}, but it should be a number from 1 to {_LARGEST}.")
    model, facts = find_facts(config)
    check_size(config.sampling, facts)
    placement = lay_out(config, config.sampling, facts, Place(nodes * devices, local_ranks=devices, nodes=nodes))
    console = make_console(stream)
    tokens = ("tokens", _describe_tokens(config, facts, placement.degrees))
    for name, text in [*model, *describe_layout(placement), tokens]:
        console.print(Text.assemble((f"{name:<11}", "bold"), text))
    console.print(_draw(placement.degrees, devices))


def find_facts(config: Config) -> tuple[list[tuple[str, str]], ModelFacts]:
    """The sizes of the model, and lines on where they come from as (label, text) pairs.

    Returns:
        The lines, which are empty for a model that is here, and the sizes.

    Raises:
        InvalidInput: the model is neither here nor published.
    """
    path = config.model.path
    published = find_published(path)
    if published and not Path(path).exists():
        return [
            ("model", f"{published.name}, of the published sizes, since there is no folder {path}")
        ], published.facts
    here = resolve_model(config, announce=lambda line: None, download=False)
    return [], read_facts(here.model.path, here.model.single_files)


def _describe_tokens(config: Config, facts: ModelFacts, degrees: Degrees) -> str:
    sampling = config.sampling
    tokens = math.prod(facts.token_grid(sampling.frames, sampling.height, sampling.width))
    fewest, rest = divmod(tokens, degrees.sequence)
    return f"{tokens} in a sequence, {f'{fewest} or {fewest + 1}' if rest else fewest} on each rank"


def _draw(degrees: Degrees, devices: int) -> Table:
    """A table with a row for each Ulysses group: its index on the other axes, its ranks and their nodes."""
    axes = {"data": degrees.data, "cfg": degrees.cfg, "ring": degrees.ring}
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in ("node", *axes, "ulysses ranks"):
        table.add_column(name, justify="right" if name != "ulysses ranks" else "left")
    places = product(*(range(degree) for degree in axes.values()))
    for group, place in enumerate(places):
        first, last = group * degrees.ulysses, (group + 1) * degrees.ulysses - 1
        node = _span(first // devices, last // devices)
        table.add_row(node, *map(str, place), _span(first, last))
    return table


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
