"""Whether the components of a folder take what the others make, by their configurations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.models.folder import read_json

_ADVICE = "so the two are of different models: download the model again"
_WIDTHS = (
    ("text_encoder", "text_config", ("text_dim", "text_embed_dim")),
    ("text_encoder_2", "text_config", ("pooled_projection_dim", "text_embed_2_dim")),
    ("image_encoder", "vision_config", ("image_dim", "image_embed_dim")),
)
"""For each encoder where its configuration may be nested, and the keys of a transformer's that say what it takes."""
_WIDTH = ("d_model", "hidden_size")
_CHANNELS = ("z_dim", "latent_channels")
_STATISTICS = ("latents_mean", "latents_std")


def check_widths(folder: Path, transformer: Mapping[str, Any], components: Collection[str]) -> None:
    """Refuse encoders whose embeddings have another width than the transformer takes. Widths that a configuration
    leaves to its class are not looked at.

    Raises:
        InvalidInput: one sentence that names both widths.
    """
    for component, nested, taken in _WIDTHS:
        if component not in components:
            continue
        settings = read_json(folder / component / "config.json")
        inner = settings.get(nested)
        width = _first(inner if isinstance(inner, Mapping) else settings, _WIDTH)
        wanted = _first(transformer, taken)
        if width and wanted and width[1] != wanted[1]:
            raise InvalidInput(
                f"The {component} in {folder} makes embeddings of {width[1]} numbers ({width[0]}), but the transformer "
                f"takes {wanted[1]} ({wanted[0]}), {_ADVICE}."
            )


def check_latents(folder: Path, vae: Mapping[str, Any], channels: int) -> None:
    """Refuse a VAE whose latents have other channels than the transformer's, or are scaled by what is no number.

    Args:
        vae: its configuration.
        channels: of the latents that the transformer makes.

    Raises:
        InvalidInput: one sentence that names the key and the value.
    """
    held = _first(vae, _CHANNELS)
    if held and held[1] != channels:
        raise InvalidInput(
            f"The VAE in {folder} takes latents of {held[1]} channels ({held[0]}), but the transformer makes "
            f"{channels}, {_ADVICE}."
        )
    for key in _STATISTICS:
        # a single number would be taken for all channels without a word
        if (values := vae.get(key)) is not None and (not isinstance(values, list) or len(values) != channels):
            count = len(values) if isinstance(values, list) else values
            raise InvalidInput(
                f"{folder / 'vae' / 'config.json'} has {key} of {count} numbers for {channels} channels: download the "
                "model again."
            )
    scales = [*(vae.get("latents_std") or ()), vae.get("scaling_factor") or 1.0]
    for number in (*(vae.get("latents_mean") or ()), *scales):
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise InvalidInput(
                f"{folder / 'vae' / 'config.json'} scales latents by {number!r}, which is no finite number: download "
                "the model again."
            )
    if 0 in scales:
        raise InvalidInput(f"{folder / 'vae' / 'config.json'} scales latents by 0: download the model again.")


def _first(settings: Mapping[str, Any], keys: Collection[str]) -> tuple[str, int] | None:
    """The first of the keys that has a whole number, with it."""
    return next(((key, settings[key]) for key in keys if isinstance(settings.get(key), int)), None)
