"""Model FLOPs of a video: of what ran, by the formula of `engine.cost`, all ranks of a replica together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

from dicache.controller import Lane
from dicache.segments import Scheme, build_scheme
from engine.config import Config
from engine.cost.flops import LaneStep, denoise_flops
from engine.cost.lanes import LaneInputs, lane_inputs
from engine.cost.shape import TransformerShape, read_shape
from engine.generation.measurements import TextLength
from engine.models.facts import ModelFacts
from engine.models.published import published_names
from engine.request import GenerationRequest


def count_flops(
    config: Config,
    facts: ModelFacts,
    request: GenerationRequest,
    rows: Sequence[Mapping[str, Any]],
    texts: Sequence[Mapping[str, TextLength]],
) -> Mapping[str, float] | None:
    """Of all denoise steps, by kind of layer. The work is that of the model, on however many ranks: what a layout adds,
    such as padding and what all ranks compute alike, is not counted.

    Args:
        config: with nothing left open.
        rows: the steps of the run report.
        texts: of every lane, as the first rank has measured them.

    Returns:
        None for HunyuanVideo where the lengths of its texts are not known.
    """
    shape = read_shape(config.model.path)
    sampling = request.sampling
    tokens = prod(facts.token_grid(sampling.frames, sampling.height, sampling.width))
    images = (request.image is not None) + (request.last_image is not None)
    wan = lane_inputs(shape, tokens, prompt=0, max_text=sampling.max_sequence_length, images=images)
    lanes = list(dict.fromkeys(Lane(row["sample"], row["branch"]) for row in rows))
    scheme = build_scheme(
        config.cache,
        lanes,
        sampling.steps,
        shape.num_blocks,
        range(sampling.steps),
        published_names(facts, request),
        sampling.shift,
    )
    estimated: dict[int, dict[Lane, set[int]]] = defaultdict(lambda: {lane: set() for lane in lanes})
    for row in rows:
        segments = estimated[row["step"]][Lane(row["sample"], row["branch"])]
        if row["action"] == "skip":
            segments.add(row.get("segment", 0))
    steps = [[lane_step(scheme, estimated[step][lane]) for lane in lanes] for step in sorted(estimated)]
    boundary = facts.boundary_timestep
    experts = 1 if boundary is None else len({row["timestep"] >= boundary for row in rows})
    if shape.joint and len(texts) != len(lanes):
        return None
    inputs = [joint_inputs(shape, tokens, text, images) for text in texts] if shape.joint else [wan] * len(lanes)
    counted = denoise_flops(shape, inputs, steps, conditioned=experts)
    return {kind: float(flops) for kind, flops in counted.items()}


def joint_inputs(shape: TransformerShape, tokens: int, texts: Mapping[str, TextLength], images: int) -> LaneInputs:
    """The lengths of a lane of HunyuanVideo, whose texts have as many tokens as their words.

    Args:
        tokens: of the video.
        texts: by the names of their masks: ``prompt_attention_mask``, or 1.5's ``prompt_embeds_mask`` and its second.
        images: that are given.
    """
    if shape.kind == "hunyuan_video":
        text = texts["prompt_attention_mask"]
        return LaneInputs(tokens, text.tokens, padding=text.padding)
    text, glyphs = texts["prompt_embeds_mask"], texts["prompt_embeds_mask_2"]
    return lane_inputs(shape, tokens, prompt=text.tokens, max_text=text.tokens, images=images, glyphs=glyphs.tokens)


def lane_step(scheme: Scheme, estimated: Collection[int]) -> LaneStep:
    """What a step runs of one lane.

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
