"""Whether a model fits on a rank, where replicas are chosen for throughput."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import psutil

from engine.config import Config, SamplingConfig
from engine.cost.memory import estimate, fits
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import ModelFacts
from engine.models.published import find_published, row_of_folder
from parallel.degrees import Degrees
from parallel.place import Place


def memory_check(
    config: Config, sampling: SamplingConfig, facts: ModelFacts, place: Place
) -> Callable[[Degrees], bool]:
    """Tells whether a rank of a layout has the memory for one video, by the formula of :mod:`engine.cost.memory`.

    On the CPU all ranks of the machine share its memory. What cannot be known, a card of another machine, is taken to
    be enough. The model is looked at once, for the first layout.
    """
    row_of = functools.cache(lambda: _row_of(config, facts))

    def has_room(degrees: Degrees) -> bool:
        has_card = _has_card(config)
        wide = config.model.dtype == "float32" or (config.model.dtype == "auto" and not has_card)
        needed = estimate(
            row_of(),
            degrees,
            config.parallel.shard_weights,
            video=(sampling.frames, sampling.height, sampling.width),
            branches=facts.num_branches(sampling.guidance),
            block_bytes=4 if wide else 2,
        ).peak
        if not has_card:
            if place.elsewhere:
                return True
            here = place.local_ranks or place.ranks or degrees.world_size
            return needed * here <= psutil.virtual_memory().total
        import torch

        return fits(needed, torch.cuda.get_device_properties(0).total_memory)

    return has_room


def _row_of(config: Config, facts: ModelFacts) -> PublishedModel:
    """The model as a row of the catalog. One that is in none counts as having the largest activations of its family."""
    path = config.model.path
    if (published := find_published(path)) is not None:
        return published
    kin = [row for row in CATALOG if row.facts.family.parts == facts.family.parts] or list(CATALOG)
    like = max(kin, key=lambda row: row.live_tensors)
    return row_of_folder(like, Path(path), facts, config.model.single_files)


def _has_card(config: Config) -> bool:
    if config.runtime.device == "cpu":
        return False
    import torch  # seconds: only where the layout depends on it

    return torch.cuda.is_available()
