"""Bytes that a rank sends so that sharded weights can be gathered (`parallel.shard_weights`), counted as
:mod:`parallel.meter` counts them under ``weights``.

A tensor of r rows lies over N ranks as N parts of ⌈r/N⌉ rows each, the last ones padded, as torch's FSDP2 cuts it; a
gather sends a rank's part to N-1 others. A block is gathered when it runs, unless it was gathered ahead: while a block
runs, the next one is. A block that is gathered ahead and skipped is kept until it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cost.flops import own_lanes
from engine.cost.ran import LaneSteps
from engine.cost.shape import Kind, TransformerShape
from engine.models.folder import read_json
from parallel.degrees import Degrees

if TYPE_CHECKING:
    import torch
    from torch import nn

_CLASSES: Mapping[Kind, str] = {
    "wan": "WanTransformer3DModel",
    "hunyuan_video": "HunyuanVideoTransformer3DModel",
    "hunyuan_video15": "HunyuanVideo15Transformer3DModel",
}
_OF_CONDITIONS = ("condition_embedder.text", "condition_embedder.image", "context_embedder_2", "image_embedder")
_OF_SAMPLES: Mapping[Kind, tuple[str, ...]] = {
    "wan": ("patch_embedding", "condition_embedder.time"),
    "hunyuan_video": ("x_embedder",),
    "hunyuan_video15": ("x_embedder", "time_embed."),
}
_TYPES_OF_TEXT = "cond_type_embed"  # HunyuanVideo 1.5's, for each part of a text
_OF_GIVEN_FRAME = "time_text_embed.timestep_embedder"  # runs once more, for the timestep of a given first frame
_IMAGE = ("condition_embedder.image", "image_embedder")


@dataclass(frozen=True)
class Units:
    """What is gathered together, in bytes that one rank sends to one other: its part of the unit's tensors."""

    blocks: tuple[int, ...]
    layers: Mapping[str, int]
    """Outside of the blocks, by name; what is left of a module that is sharded as a whole has the name ``""``."""


def units_of(module: nn.Module, blocks: Sequence[nn.Module], ranks: int, whole: bool) -> Units:
    """The units of a module, as :mod:`parallel.weights` makes them.

    Args:
        module: on the meta device, in its final dtypes.
        whole: whether all that is left is a unit too, as in a text encoder.
    """
    from parallel.weights import layers_outside

    names = {id(part): name for name, part in module.named_modules()}
    layers = {
        names[id(layer)]: _part_bytes(layer.parameters(recurse=False), ranks)
        for layer in layers_outside(blocks, module)
    }
    if whole:
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        inside |= {id(p) for name in layers for p in module.get_submodule(name).parameters(recurse=False)}
        layers[""] = _part_bytes((p for p in module.parameters() if id(p) not in inside), ranks)
    return Units(tuple(_part_bytes(block.parameters(), ranks) for block in blocks), layers)


def _part_bytes(parameters: Iterable[Any], ranks: int) -> int:
    return sum(-(-p.shape[0] // ranks) * prod(p.shape[1:]) * p.element_size() for p in parameters)


def transformer_weight_bytes(
    shape: TransformerShape,
    units: Units,
    steps: Sequence[LaneSteps],
    degrees: Degrees,
    rank: int = 0,
    *,
    samples: int = 1,
    with_image: bool = False,
    modulated_input: bool = False,
) -> int:
    """Sent by a rank while one transformer runs these steps; 0 where there are none.

    Args:
        units: of the transformer.
        steps: what each runs of each lane, those of other ranks too; the first range of blocks is the probe.
        samples: prompts, whose branches follow one another among the lanes.
        with_image: whether an image encoder's tokens are among the conditions.
        modulated_input: whether the cache looks at the first block's modulated input, for which the block is gathered.
    """
    if not steps:
        return 0
    lanes = len(steps[0])
    own = own_lanes(lanes, degrees, rank)
    blocks = _Blocks(units.blocks)
    for step in steps:
        for number in own:
            blocks.sent += units.blocks[0] if modulated_input else 0
            blocks.run(step[number].blocks[0])
        for number in own:
            branches = lanes // samples
            sample = number // branches * branches
            blocks.follow(step, number, [n for n in range(sample, sample + branches) if n not in own])
    times = {name: _times(shape, name, len(steps), len(own), samples, with_image) for name in units.layers}
    layers = sum(times[name] * size for name, size in units.layers.items())
    return (blocks.sent + layers) * (degrees.replica_size - 1)


def _times(shape: TransformerShape, name: str, steps: int, own: int, samples: int, with_image: bool) -> int:
    """How often a layer outside of the blocks runs on a rank that computes ``own`` lanes."""
    if name.startswith(_IMAGE) and not with_image:
        return 0
    if name.startswith(_OF_CONDITIONS):
        return own
    if name.startswith(_TYPES_OF_TEXT):  # the prompt's at each step, the others once
        return own * (steps + 1 + with_image)
    if shape.first_frame_given and name.startswith(_OF_GIVEN_FRAME):
        return 2 * steps * own
    return steps * (samples if name.startswith(_OF_SAMPLES[shape.kind]) else own)


class _Blocks:
    """The blocks of a transformer, and which of them are gathered ahead."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sent = 0
        self._sizes = sizes
        self._ahead: set[int] = set()

    def run(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._gather(number)
            self._ahead.discard(number)
            if number + 1 < len(self._sizes):
                self._gather(number + 1)
                self._ahead.add(number + 1)

    def follow(self, step: LaneSteps, lane: int, elsewhere: Sequence[int]) -> None:
        """All blocks after the probe; a block that the lane skips and that runs in a lane ``elsewhere``, on another
        rank, is gathered for that rank."""
        probe, *segments = step[lane].blocks
        own = {number for blocks in segments for number in blocks}
        others = {number for other in elsewhere for blocks in step[other].blocks[1:] for number in blocks}
        for number in range(probe.stop, len(self._sizes)):
            if number in own:
                self.run((number,))
            elif number in others:
                self._gather(number)
                self._ahead.discard(number)

    def _gather(self, number: int) -> None:
        if number not in self._ahead:
            self.sent += self._sizes[number]


@cache
def transformer_units(folder: str, subfolder: str, kind: Kind, ranks: int, block_bytes: int) -> Units:
    """Of a transformer in a model's folder, from its configuration alone.

    Args:
        subfolder: ``transformer`` or ``transformer_2``.
        ranks: of a replica.
        block_bytes: of a number; parameters that diffusers keeps in float32 have 4.
    """
    import diffusers
    import torch

    from parallel.diffusers_private import kept_in_float32
    from parallel.weights import list_blocks

    made = getattr(diffusers, _CLASSES[kind])
    with torch.device("meta"):
        module = made.from_config(read_json(Path(folder) / subfolder / "config.json"))
    kept = set(kept_in_float32(made))
    for name, parameter in module.named_parameters():
        parameter.data = parameter.to(torch.float32 if kept & set(name.split(".")) else _dtype(block_bytes))
    return units_of(module, list_blocks(module), ranks, whole=False)


@cache
def text_encoder_units(folder: str, ranks: int, number_bytes: int) -> Units:
    """Of Wan's text encoder, the only one that is sharded; arguments as of :func:`transformer_units`."""
    import torch
    from transformers import AutoConfig, UMT5EncoderModel

    from parallel.weights import list_blocks

    settings = AutoConfig.from_pretrained(folder, subfolder="text_encoder", local_files_only=True)
    with torch.device("meta"):
        encoder = UMT5EncoderModel(settings)
    encoder.set_input_embeddings(encoder.shared)  # tied, as when it is loaded
    for parameter in encoder.parameters():
        parameter.data = parameter.to(_dtype(number_bytes))
    return units_of(encoder, list_blocks(encoder.encoder), ranks, whole=True)


def _dtype(number_bytes: int) -> torch.dtype:
    import torch

    return torch.float32 if number_bytes == 4 else torch.bfloat16
