"""Recognises published models, of which some methods of the cache have numbers, and describes others as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.config import Config
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import ModelFacts
from engine.models.folder import read_json
from engine.models.single_files import files_of, is_safetensors, read_names
from engine.models.weights import read_tensors
from engine.request import GenerationRequest

SMALL_MODEL = "tiny-wan"
"""The model of configs/tiny_wan, which is in no catalog."""
_NOWHERE: Mapping[Any, str] = MappingProxyType({})
_SMALL_SIZES = ("WanPipeline", 4, 12, 16, 8)
_HUNYUAN_HEIGHTS = {544: "HunyuanVideo-544p", 720: "HunyuanVideo-720p"}


def published_names(facts: ModelFacts, request: GenerationRequest) -> tuple[str, ...]:
    """The names by which dicache may know the model; a fine-tuned model has the names of its base model.

    They are the checkpoints' names. Where numbers are published for one way to run a model, the name has a suffix:
    "-image" for Wan 2.2 TI2V with a first frame, and the height for HunyuanVideo ("-544p", "-720p"; both for any other
    height).
    """
    names = [published_name(model) for model in CATALOG if _looks_like(facts, model)]
    if "Wan2.2-TI2V-5B" in names and request.image is not None:
        names = ["Wan2.2-TI2V-5B-image"]
    if "HunyuanVideo" in names:
        height = request.sampling.height
        names += [_HUNYUAN_HEIGHTS[height]] if height in _HUNYUAN_HEIGHTS else _HUNYUAN_HEIGHTS.values()
    return tuple(names)


def known_names(facts: ModelFacts, request: GenerationRequest) -> tuple[str, ...]:
    """As :func:`published_names`, but with the name of the small model that ships with Lockstep."""
    sizes = (facts.pipeline, facts.num_heads, facts.num_layers, facts.latent_channels, facts.vae_scale_spatial)
    return (SMALL_MODEL,) if sizes == _SMALL_SIZES else published_names(facts, request)


def find_published(path: str) -> PublishedModel | None:
    """The published model that a path without a folder names: by its id on the hub, or by the folder of its recipe."""
    for model in CATALOG:
        if path == model.hub_id or Path(path).name == model.hub_id.partition("/")[2]:
            return model
    return None


def row_of(config: Config, facts: ModelFacts) -> PublishedModel:
    """The configuration's model as a row of the catalog. One that is in none counts as a published one of its sizes, or
    where there is none as having the largest activations of its family."""
    path = config.model.path
    if (published := find_published(path)) is not None:
        return published
    kin = [row for row in CATALOG if row.facts.family.parts == facts.family.parts] or list(CATALOG)
    largest = max(kin, key=lambda row: row.live_tensors)
    like = next((row for row in kin if _looks_like(facts, row)), largest)
    return row_of_folder(like, Path(path), facts, config.model.single_files)


def row_of_folder(
    like: PublishedModel, folder: Path, facts: ModelFacts, elsewhere: Mapping[Any, str] = _NOWHERE
) -> PublishedModel:
    """A row as the catalog has them for a model that it does not have. Its weights are counted from the files' headers.

    Args:
        like: the row of a model of the same family, for what the folder does not tell.
        elsewhere: ``model.single_files``, paths of components whose weights are not in the folder. Of files that tell
            nothing before they are read they count as those of ``like``.

    Raises:
        InvalidInput: a file is missing or damaged.
    """
    parameters = {
        name: _count_elsewhere(like, name, elsewhere[name]) if name in elsewhere else _count(read_tensors(folder, name))
        for name in facts.components
    }
    return replace(
        like,
        name=folder.name,
        hub_id=f"local/{folder.name}",
        pipeline=facts.pipeline,
        transformer=read_json(folder / "transformer" / "config.json"),
        vae=read_json(folder / "vae" / "config.json"),
        parameters=parameters,
        boundary_ratio=None if facts.boundary_timestep is None else facts.boundary_timestep / 1000,
    )


def _count_elsewhere(like: PublishedModel, component: str, path: str) -> int:
    if all(map(is_safetensors, files_of(path))):
        return _count(read_names(path, component))
    # one of two experts has the sizes of the other one, which a published model with one transformer has too
    return like.parameters.get(component) or like.parameters["transformer"]


def _count(tensors: Mapping[str, Any]) -> int:
    return sum(math.prod(tensor["shape"]) for tensor in tensors.values())


def published_name(model: PublishedModel) -> str:
    """The name by which dicache knows a published model: that of its repository."""
    return model.hub_id.partition("/")[2].removesuffix("-Diffusers")


def _looks_like(facts: ModelFacts, model: PublishedModel) -> bool:
    published = model.facts
    return (
        (facts.pipeline, facts.num_heads, facts.num_layers)
        == (published.pipeline, published.num_heads, published.num_layers)
        and len(facts.transformers) == len(published.transformers)
        and (facts.clip_images == 2) == (model.tasks == ("first-last-frame",))
    )
