"""What is to be computed: one video of a configuration, in sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import Config
from engine.cost.lanes import WAN_TEXT, LaneInputs, lane_inputs
from engine.cost.shape import TransformerShape, shape_of_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import ModelFacts, read_facts
from engine.models.hub import resolve_model
from engine.models.published import find_published, row_of_folder
from launch.planner.skipping import NEVER, Skipping, find_skipping

_TYPICAL_PROMPT = 64  # tokens; only HunyuanVideo's models drop the padding
_SMALL_HEADS = 4  # of the model that ships


@dataclass(frozen=True)
class Workload:
    """One video, and how its model is run. ``model.video`` is the video's size."""

    model: PublishedModel
    facts: ModelFacts
    shape: TransformerShape
    lane: LaneInputs
    branches: int
    steps: int
    skipping: Skipping

    @property
    def experts(self) -> int:
        """Transformers that take turns."""
        return len(self.facts.transformers)

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return math.prod(self.model.video)

    @property
    def transformer_parameters(self) -> int:
        """Of one expert."""
        return self.model.parameters["transformer"]

    @property
    def encoder_parameters(self) -> int:
        """Of text and image encoders."""
        return sum(n for name, n in self.model.parameters.items() if "encoder" in name)


def make_workload(config: Config, share: float | None = None) -> Workload:
    """The video of a configuration. Nothing is downloaded: a published model need not be here.

    Args:
        share: of the steps that the cache skips, where the user gives it.

    Raises:
        InvalidInput: the model is neither here nor published.
    """
    model, facts = find_model(config)
    sampling = config.sampling
    small = model not in CATALOG and facts.num_heads == _SMALL_HEADS
    experts = len(facts.transformers)
    skipping = find_skipping(config.cache, sampling.steps, experts, is_small_model=small, share=share)
    model = replace(model, video=(sampling.frames, sampling.height, sampling.width))
    branches = facts.num_branches(sampling.guidance)
    return workload_of(model, facts, branches, sampling.steps, skipping, sampling.max_sequence_length)


def workload_of(
    model: PublishedModel,
    facts: ModelFacts,
    branches: int,
    steps: int,
    skipping: Skipping = NEVER,
    max_text: int = WAN_TEXT,
) -> Workload:
    """A video of the size ``model.video``."""
    shape = shape_of_model(model)
    tokens = math.prod(facts.token_grid(*model.video))
    images = 1 if facts.needs_image or shape.in_channels > 2 * shape.out_channels else 0
    lane = lane_inputs(shape, tokens, prompt=_TYPICAL_PROMPT, max_text=max_text, images=images)
    return Workload(model, facts, shape, lane, branches, steps, skipping)


def find_model(config: Config) -> tuple[PublishedModel, ModelFacts]:
    """The sizes of the configuration's model, from the catalog or from its folder.

    Raises:
        InvalidInput: it is neither here nor published.
    """
    path = config.model.path
    published = find_published(path)
    if published and not Path(path).exists():
        return published, published.facts
    here = resolve_model(config, announce=lambda line: None, download=False).model
    facts = read_facts(here.path, here.single_files)
    if published:
        return published, facts
    like = next(row for row in CATALOG if row.facts.family.name == facts.family.name)
    return row_of_folder(like, Path(here.path), facts, here.single_files), facts
