"""Bytes of what the first rank of a replica encodes and broadcasts, counted as :mod:`parallel.meter` counts them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from engine.cost.ran import Ran, TextLengths, patches_of_image
from engine.models.folder import read_json
from parallel.degrees import Degrees

_FLOAT32, _INT64 = 4, 8


class NumberBytes(NamedTuple):
    """Bytes of a number: 4 in float32, 2 in bfloat16."""

    blocks: int = 2
    texts: int = 2
    """In the text encoders."""
    vae: int = 4


def broadcast_bytes(ran: Ran, degrees: Degrees, rank: int, numbers: NumberBytes) -> int:
    """Sent by a rank for one request; all but the first of a replica send none."""
    if rank % degrees.replica_size:
        return 0
    embedded = [_text_bytes(ran, lane, numbers) for lane in ran.texts or [{}] * len(ran.lanes)]
    image = _image_bytes(ran, numbers) if ran.images else 0
    return (sum(embedded) + image) * (degrees.replica_size - 1)


def _text_bytes(ran: Ran, texts: TextLengths, numbers: NumberBytes) -> int:
    """Of one lane: embeddings with their padding, and the masks that tell words from padding."""
    shape = ran.shape
    if shape.kind == "wan":
        return ran.request.sampling.max_sequence_length * shape.text_dim * numbers.texts
    lengths = {name: sum(both) for name, both in texts.items()}
    if shape.kind == "hunyuan_video":
        (tokens,) = lengths.values()
        guidance = numbers.blocks  # one number
        return tokens * (shape.text_dim * numbers.texts + _INT64) + shape.pooled_dim * numbers.texts + guidance
    prompt, glyphs = lengths["prompt_embeds_mask"], lengths["prompt_embeds_mask_2"]
    return prompt * (shape.text_dim * numbers.texts + _INT64) + glyphs * (shape.glyph_dim * numbers.texts + _INT64)


def _image_bytes(ran: Ran, numbers: NumberBytes) -> int:
    """Of a request: Wan's images as pixels, HunyuanVideo's as latents, and what an image encoder makes of them."""
    sampling, folder = ran.request.sampling, ran.config.model.path
    if ran.shape.kind != "wan":
        channels, _, rows, columns = ran.facts.latents_shape(sampling.frames, sampling.height, sampling.width)
        embedded = patches_of_image(folder) * ran.shape.image_dim if ran.shape.kind == "hunyuan_video15" else 0
        return channels * rows * columns * _FLOAT32 + embedded * numbers.blocks
    pixels = ran.images * 3 * sampling.height * sampling.width * _FLOAT32
    if not ran.facts.clip_images:
        return pixels
    width = int(read_json(Path(folder) / "image_encoder" / "config.json")["hidden_size"])
    return pixels + ran.images * (patches_of_image(folder) + 1) * width * _FLOAT32  # a token for the whole image
