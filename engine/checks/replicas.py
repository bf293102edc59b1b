"""Whether a model fits on a rank, where replicas are chosen for throughput."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import psutil

from engine.config import Config, SamplingConfig
from engine.cost.memory import estimate, fits
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import ModelFacts
from engine.models.folder import read_json
from engine.models.published import find_published
from engine.models.weights import read_tensors
from parallel.degrees import Degrees
from parallel.place import Place


def fits_memory(config: Config, sampling: SamplingConfig, facts: ModelFacts, degrees: Degrees, place: Place) -> bool:
    """Whether a rank of that layout has the memory for one video, by the formula of :mod:`engine.cost.memory`.

    On the CPU all ranks of the machine share its memory. What cannot be known, a card of another machine, is taken to
    be enough.
    """
    row = _row_of(config, facts)
    wide = config.model.dtype == "float32" or (config.model.dtype == "auto" and not _has_card(config))
    needed = estimate(
        row,
        degrees,
        config.parallel.shard_weights,
        video=(sampling.frames, sampling.height, sampling.width),
        branches=facts.num_branches(sampling.guidance),
        block_bytes=4 if wide else 2,
    ).peak
    if not _has_card(config):
        if place.elsewhere:
            return True
        here = place.local_ranks or place.ranks or degrees.world_size
        return needed * here <= psutil.virtual_memory().total
    import torch

    return fits(needed, torch.cuda.get_device_properties(0).total_memory)


def _row_of(config: Config, facts: ModelFacts) -> PublishedModel:
    """The model as a row of the catalog. One that is in none has its weights counted, and the largest activations of
    its family."""
    path = config.model.path
    if (published := find_published(path)) is not None:
        return published
    kin = [row for row in CATALOG if row.facts.family.parts == facts.family.parts] or list(CATALOG)
    like = max(kin, key=lambda row: row.live_tensors)
    tensors = {
        folder: read_tensors(path, folder) for folder in facts.components if folder not in config.model.single_files
    }
    counted = {folder: sum(math.prod(tensor["shape"]) for tensor in held.values()) for folder, held in tensors.items()}
    return replace(
        like,
        transformer=read_json(Path(path) / "transformer" / "config.json"),
        vae=read_json(Path(path) / "vae" / "config.json"),
        parameters={**like.parameters, **counted},
        boundary_ratio=None if facts.boundary_timestep is None else facts.boundary_timestep / 1000,
    )


def _has_card(config: Config) -> bool:
    if config.runtime.device == "cpu":
        return False
    import torch  # seconds: only where the layout depends on it

    return torch.cuda.is_available()
