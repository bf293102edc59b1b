"""The one place where everything is checked that can be known to be wrong before weights load, and where everything is
settled that a configuration leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from engine.checks.cache import check_cache
from engine.checks.cache_choice import choose_cache
from engine.checks.compiler import check_compiler, check_compiles
from engine.checks.layout import check_goal, check_replicas, lay_out
from engine.checks.memory import check_memory, check_offload, offload_notes
from engine.checks.model import check_added_weights, check_device, check_size
from engine.checks.notes import image_notes, request_notes
from engine.checks.outputs import check_outputs
from engine.checks.quantised import check_packages, check_quantised
from engine.checks.request import check_request
from engine.checks.room import check_room
from engine.config_file import AnyConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts, read_facts
from engine.models.loras import check_lora_files
from engine.models.single_files import check_single_files
from engine.request import Task
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import Placement


@dataclass(frozen=True)
class Checked(Generic[AnyConfig]):
    """What the checks found out."""

    config: AnyConfig
    """With every degree of ``parallel`` filled in and, where there are tasks, with nothing left open in ``cache``: what
    :class:`engine.engine.Engine` takes."""
    placement: Placement
    """The layout of the ranks, and why."""
    facts: ModelFacts
    cache_reasons: Sequence[str] = ()
    """A sentence fragment for each thing that was chosen in the cache section."""
    notes: Sequence[str] = ()
    """A line for each thing that the user or the model's folder gives and that has no effect."""

    @property
    def degrees(self) -> Degrees:
        return self.placement.degrees


def preflight(config: AnyConfig, tasks: Sequence[Task], place: Place) -> Checked[AnyConfig]:
    """Check a whole run without reading a weight or starting a process.

    Args:
        config: its ``model.path`` is a folder.
        tasks: all are sampled alike and share their images. None at all for ranks that will take one request after
            another: then a layout that is chosen is chosen for videos as ``config.sampling`` describes them, and the
            cache section is left for the requests.
        place: where this process is. Images and output folders are checked only where they will be read and written,
            on the first rank of a replica and on a launcher, since other machines may not have them.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
        NoRoom: the disks have no room for the outputs; it is one of them.
    """
    if place.ranks is not None and place.ranks < 1:
        raise InvalidInput(f"--ranks is {place.ranks}: start at least 1 rank.")
    request = tasks[0].request if tasks else None
    sampling = request.sampling if request else config.sampling
    facts = read_facts(config.model.path, config.model.single_files)
    check_size(sampling, facts)
    if request:
        check_request(request, facts)
    check_goal(config, len(tasks))
    placement = lay_out(config, sampling, facts, place, len(tasks))
    degrees = placement.degrees
    if tasks:
        check_replicas(degrees, len(tasks))
    check_offload(config, degrees)
    check_compiles(config)
    check_single_files(config, facts, degrees.replica_size)
    quantised = check_quantised(config, facts, degrees.replica_size)
    check_lora_files(config, facts)
    notes = request_notes(config, request, facts) if request else []
    if _writes_files(place, degrees):
        notes += _check_files(tasks, Path(config.model.path))
    config = config.model_copy(update={"parallel": config.parallel.with_degrees(degrees)})
    reasons: Sequence[str] = ()
    # last, because these import torch
    if request:
        choice = choose_cache(config, request, facts)
        config, reasons = config.model_copy(update={"cache": choice.cache}), choice.reasons
        check_cache(config, request, facts)
    check_packages(config)
    notes += [*quantised, *check_added_weights(config, facts)]
    if not place.elsewhere and _writes_files(place, degrees):
        check_room(config, tasks, facts, degrees)
    if not place.elsewhere:
        check_device(config, place.local_ranks if place.local_ranks is not None else degrees.world_size)
        check_compiler(config)
        check_memory(config, sampling, facts, degrees, place)
        notes += offload_notes(config)
    return Checked(config, placement, facts, reasons, notes)


def _writes_files(place: Place, degrees: Degrees) -> bool:
    """Whether this process reads images and writes outputs, or starts the ranks that do."""
    return place.rank is None or place.rank % degrees.replica_size == 0


def _check_files(tasks: Sequence[Task], model: Path) -> list[str]:
    """Read the images, which all tasks share, and refuse outputs that could not be written; returns notes on images."""
    notes = image_notes(tasks[0].request) if tasks else []
    for task in tasks:
        check_outputs(task.outputs, model)
    return notes
