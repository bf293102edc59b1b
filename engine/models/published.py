"""Which published checkpoints a model may be: some methods of the cache come with numbers that hold for those alone."""

from __future__ import annotations

from pathlib import Path

from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest

SMALL_MODEL = "tiny-wan"
"""The model of configs/tiny_wan, which is in no catalog."""
_SMALL_SIZES = ("WanPipeline", 4, 12, 16, 8)
_HUNYUAN_HEIGHTS = {544: "HunyuanVideo-544p", 720: "HunyuanVideo-720p"}


def published_names(facts: ModelFacts, request: GenerationRequest) -> tuple[str, ...]:
    """Names that the model, run as the request asks, may go by in dicache; what was trained further looks the same.

    They are the checkpoints' own, and beside them, where numbers hold for one way to run it: "-image" with a first
    frame for Wan 2.2 TI2V, and the height of the picture for HunyuanVideo, each of them if it is none of theirs.
    """
    names = [published_name(model) for model in CATALOG if _looks_like(facts, model)]
    if "Wan2.2-TI2V-5B" in names and request.image is not None:
        names = ["Wan2.2-TI2V-5B-image"]
    if "HunyuanVideo" in names:
        height = request.sampling.height
        names += [_HUNYUAN_HEIGHTS[height]] if height in _HUNYUAN_HEIGHTS else _HUNYUAN_HEIGHTS.values()
    return tuple(names)


def known_names(facts: ModelFacts, request: GenerationRequest) -> tuple[str, ...]:
    """Those of :func:`published_names`, or that of the small model that ships with Lockstep."""
    sizes = (facts.pipeline, facts.num_heads, facts.num_layers, facts.latent_channels, facts.vae_scale_spatial)
    return (SMALL_MODEL,) if sizes == _SMALL_SIZES else published_names(facts, request)


def find_published(path: str) -> PublishedModel | None:
    """The published checkpoint that a model's path means if nothing is there: its id on the hub, or the folder that
    its recipe names."""
    for model in CATALOG:
        if path == model.hub_id or Path(path).name == model.hub_id.partition("/")[2]:
            return model
    return None


def published_name(model: PublishedModel) -> str:
    """The name by which dicache knows it: that of its repository."""
    return model.hub_id.partition("/")[2].removesuffix("-Diffusers")


def _looks_like(facts: ModelFacts, model: PublishedModel) -> bool:
    published = model.facts
    return (
        (facts.pipeline, facts.num_heads, facts.num_layers)
        == (published.pipeline, published.num_heads, published.num_layers)
        and len(facts.transformers) == len(published.transformers)
        and (facts.clip_images == 2) == (model.tasks == ("first-last-frame",))
    )
