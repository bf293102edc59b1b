"""What a run did, in the terms of the formulas: read from the steps of its report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from dicache.segments import Scheme, build_scheme
from dicache.steps import Action, Lane
from engine.config import Config
from engine.cost.flops import LaneStep
from engine.cost.lanes import LaneInputs, lane_inputs
from engine.cost.shape import TransformerShape, read_shape
from engine.models.facts import ModelFacts
from engine.models.folder import read_json
from engine.models.published import published_names
from engine.request import GenerationRequest

TextLengths = Mapping[str, tuple[int, int]]
"""Tokens and padding of each text of a lane, by the name of its mask, as ``RankMeasurements.texts`` has them."""
LaneSteps = tuple[LaneStep, ...]
"""What one step runs of each lane."""


@dataclass(frozen=True)
class Ran:
    """One request: its lanes, and what each step ran of them."""

    config: Config
    facts: ModelFacts
    request: GenerationRequest
    texts: Sequence[TextLengths]
    """Of every lane; empty for Wan."""
    shape: TransformerShape
    lanes: tuple[Lane, ...]
    inputs: tuple[LaneInputs, ...]
    """The lengths of each lane."""
    experts: tuple[tuple[LaneSteps, ...], ...]
    """The steps of each transformer, which may have none."""
    actions: Mapping[tuple[int, Lane, int], Action]
    """By step, lane and number of the segment."""

    @property
    def images(self) -> int:
        """Given: none, the first, or the first and the last."""
        return _count_images(self.request)

    @property
    def steps(self) -> tuple[LaneSteps, ...]:
        """Of all experts."""
        return tuple(step for steps in self.experts for step in steps)

    @property
    def spans(self) -> tuple[range, ...]:
        """The numbers of each expert's steps."""
        starts = [sum(map(len, self.experts[:number])) for number in range(len(self.experts) + 1)]
        return tuple(range(start, stop) for start, stop in pairwise(starts))


def read_run(
    config: Config,
    facts: ModelFacts,
    request: GenerationRequest,
    rows: Sequence[Mapping[str, Any]],
    texts: Sequence[TextLengths] = (),
) -> Ran | None:
    """The run whose report has these ``steps``.

    Args:
        config: with nothing left open.
        texts: of every lane, as the first rank has measured them; Wan, whose texts count with their padding, needs
            none.

    Returns:
        None for HunyuanVideo where the lengths of its texts are not known.
    """
    shape = read_shape(config.model.path)
    lanes = tuple(dict.fromkeys(Lane(row["sample"], row["branch"]) for row in rows))
    if shape.joint and len(texts) != len(lanes):
        return None
    scheme = _scheme(config, facts, request, shape, lanes)
    actions: dict[tuple[int, Lane, int], Action] = {
        (row["step"], Lane(row["sample"], row["branch"]), row.get("segment", 0)): row["action"] for row in rows
    }
    numbers = range(len(scheme.cached))
    timesteps = {row["step"]: row["timestep"] for row in rows}
    steps: list[LaneSteps] = []
    for step in sorted(timesteps):
        skipped = [{number for number in numbers if actions[step, lane, number] == "skip"} for lane in lanes]
        steps.append(tuple(lane_step(scheme, estimated) for estimated in skipped))
    boundary = facts.boundary_timestep
    first = len(steps) if boundary is None else sum(timestep >= boundary for timestep in timesteps.values())
    experts = (tuple(steps),) if boundary is None else (tuple(steps[:first]), tuple(steps[first:]))
    texts = texts if shape.joint else ()
    return Ran(
        config,
        facts,
        request,
        texts,
        shape,
        lanes,
        _inputs(config, facts, request, shape, lanes, texts),
        experts,
        actions,
    )


def _count_images(request: GenerationRequest) -> int:
    return (request.image is not None) + (request.last_image is not None)


def scheme_of(ran: Ran) -> Scheme:
    """The segments into which the run's cache divides the blocks."""
    return _scheme(ran.config, ran.facts, ran.request, ran.shape, ran.lanes)


def lane_step(scheme: Scheme, estimated: Collection[int]) -> LaneStep:
    """What a step runs of one lane; the first range of blocks is the probe.

    Args:
        estimated: the numbers of the segments that it estimates, among those that may be.
    """
    blocks, head, number = [range(scheme.probe_blocks)], True, 0
    for segment, method in scheme.segments:
        runs = method is None or number not in estimated
        number += method is not None
        if runs:
            blocks.append(range(segment.start, segment.stop))
        elif segment.with_head:
            head = False
    return LaneStep(tuple(blocks), head)


def _scheme(
    config: Config, facts: ModelFacts, request: GenerationRequest, shape: TransformerShape, lanes: Sequence[Lane]
) -> Scheme:
    sampling = request.sampling
    names, span = published_names(facts, request), range(sampling.steps)
    return build_scheme(config.cache, lanes, sampling.steps, shape.num_blocks, span, names, sampling.shift)


def _inputs(
    config: Config,
    facts: ModelFacts,
    request: GenerationRequest,
    shape: TransformerShape,
    lanes: Sequence[Lane],
    texts: Sequence[TextLengths],
) -> tuple[LaneInputs, ...]:
    sampling = request.sampling
    tokens = prod(facts.token_grid(sampling.frames, sampling.height, sampling.width))
    images = _count_images(request)
    if not shape.joint:
        lane = lane_inputs(shape, tokens, prompt=0, max_text=sampling.max_sequence_length, images=images)
        if lane.image:  # a token for each patch and one for the whole image
            lane = replace(lane, image=images * (patches_of_image(config.model.path) + 1))
        return (lane,) * len(lanes)
    image = patches_of_image(config.model.path) if images and shape.kind == "hunyuan_video15" else 0
    return tuple(_joint_inputs(shape, tokens, text, image) for text in texts)


def _joint_inputs(shape: TransformerShape, tokens: int, texts: TextLengths, image: int) -> LaneInputs:
    """The lengths of a lane of HunyuanVideo, whose texts have as many tokens as their words.

    Args:
        tokens: of the video.
        texts: by the names of their masks: ``prompt_attention_mask``, or 1.5's ``prompt_embeds_mask`` and its second.
        image: tokens of a given image.
    """
    if shape.kind == "hunyuan_video":
        prompt, padding = texts["prompt_attention_mask"]
        return LaneInputs(tokens, prompt, padding=padding)
    return LaneInputs(tokens, texts["prompt_embeds_mask"][0], image=image, glyphs=texts["prompt_embeds_mask_2"][0])


def patches_of_image(folder: str | Path) -> int:
    """Patches that the model's image encoder makes of an image: tokens of SigLIP, and one fewer than CLIP's."""
    config = read_json(Path(folder) / "image_encoder" / "config.json")
    return int((config.get("image_size", 224) // config.get("patch_size", 16)) ** 2)
