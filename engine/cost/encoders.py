"""FLOPs of the encoders of texts and images, counted as :mod:`engine.cost.flops` counts.

With t tokens of d numbers, of which a layer makes queries of i numbers and keys and values of k, and f numbers in the
feed-forward: a layer takes 4 t d i + 4 t d k in projections, 4 t² i in attention, and 2 t d f for each matrix of the
feed-forward, of which a gated one has three and a plain one two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of one encoder."""

    layers: int
    dim: int
    query_dim: int  # of all heads
    key_dim: int  # of all heads that keys have
    ffn_dim: int
    gated: bool
    patch_values: int = 0  # of an image's patches: numbers in one, of three channels; 0 for a text


def shape_of_encoder(config: Mapping[str, Any]) -> EncoderShape:
    """The shape that a ``config.json`` of transformers describes: of T5, UMT5, Llama, Qwen2.5-VL, CLIP or SigLIP. Of a
    configuration with a part for texts and one for images, hand over that part.

    Raises:
        KeyError: a size is missing.
    """
    if "d_model" in config:  # T5
        inner = config["num_heads"] * config["d_kv"]
        gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
        return EncoderShape(config["num_layers"], config["d_model"], inner, inner, config["d_ff"], gated)
    dim, heads = config["hidden_size"], config["num_attention_heads"]
    patch = config.get("patch_size")
    keys = config.get("num_key_value_heads")
    head_dim = config.get("head_dim") or dim // heads
    return EncoderShape(
        config["num_hidden_layers"],
        dim,
        heads * head_dim,
        (keys or heads) * head_dim,
        config["intermediate_size"],
        gated=keys is not None,  # Llama and its kin; CLIP and SigLIP have neither
        patch_values=3 * patch**2 if patch else 0,
    )


def encoder_flops(shape: EncoderShape, tokens: int, patches: int = 0) -> int:
    """One text, or one image.

    Args:
        tokens: with padding, and those that begin and end a sequence.
        patches: of an image.
    """
    layer = 4 * tokens * shape.dim * (shape.query_dim + shape.key_dim) + 4 * tokens**2 * shape.query_dim
    layer += 2 * tokens * shape.dim * shape.ffn_dim * (3 if shape.gated else 2)
    return shape.layers * layer + 2 * patches * shape.patch_values * shape.dim
