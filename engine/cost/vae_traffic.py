"""Bytes that a rank sends while a Wan VAE works on strips of rows, counted as :mod:`parallel.meter` counts them.

``vae_halo``: before each convolution over three rows a rank sends its first row up and its last row down, of all
channels and of the frames that the convolution sees, remembered ones among them; a padding that adds a row below takes
one from the strip below alone. ``vae_attention``: keys and values of a strip, to all other ranks with rows.
``vae_gather``: finished rows, to the first rank, and encoded ones, to all. ``vae_agreement``: one number a latent
frame.

What the layers read is seen on the meta device, where tensors have shapes and no data, in a VAE of one rank. From its
third latent frame on all cost the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.cost.autoencoders import FEW_FRAMES, Way, make_autoencoder
from parallel.degrees import Degrees
from parallel.lengths import split_evenly

_FLOAT64 = 8


@dataclass(frozen=True)
class _Exchanged:
    """Numbers that a video's layers exchange."""

    up: int
    """In rows that go to the strip above."""
    down: int
    attention: int
    """Keys and values of one row of latents."""

    def with_more(self, one_more: _Exchanged, times: int) -> _Exchanged:
        """Of a longer video, where each of ``times`` frames costs what ``one_more`` has on top of this."""
        return _Exchanged(
            self.up + times * (one_more.up - self.up),
            self.down + times * (one_more.down - self.down),
            self.attention + times * (one_more.attention - self.attention),
        )


def decode_bytes(
    config: Mapping[str, Any], latents: tuple[int, int, int, int], degrees: Degrees, rank: int = 0, vae_bytes: int = 4
) -> dict[str, int]:
    """Sent by a rank while one video is decoded, by kind.

    Args:
        config: the VAE's ``config.json``; a key that is left out has the default of diffusers' class.
        latents: channels, frames, rows and columns, as ``ModelFacts.latents_shape`` gives them.
        vae_bytes: of a number in the VAE.
    """
    sent = _strip_bytes(config, latents, degrees, rank, vae_bytes, "decode")
    rank %= degrees.replica_size
    temporal, spatial = _scales(config)
    _, frames, rows, columns = latents
    height = split_evenly(rows, degrees.replica_size)[rank]
    if rank > 0:
        pixels = height * spatial * columns * spatial
        sent["vae_gather"] += 3 * ((frames - 1) * temporal + 1) * pixels  # a byte each
    sent["vae_agreement"] += frames * _FLOAT64 * (degrees.replica_size - 1)
    return {kind: size for kind, size in sent.items() if size}


def encode_bytes(
    config: Mapping[str, Any], latents: tuple[int, int, int, int], degrees: Degrees, rank: int = 0, vae_bytes: int = 4
) -> dict[str, int]:
    """Sent by a rank while one video, of a given image and perhaps zeros, is encoded; arguments as above."""
    sent = _strip_bytes(config, latents, degrees, rank, vae_bytes, "encode")
    channels, frames, rows, columns = latents
    height = split_evenly(rows, degrees.replica_size)[rank % degrees.replica_size]
    sent["vae_gather"] += channels * frames * height * columns * vae_bytes * (degrees.replica_size - 1)
    return {kind: size for kind, size in sent.items() if size}


def _strip_bytes(
    config: Mapping[str, Any],
    latents: tuple[int, int, int, int],
    degrees: Degrees,
    rank: int,
    vae_bytes: int,
    way: Way,
) -> Counter[str]:
    heights = split_evenly(latents[2], degrees.replica_size)
    height, holders = heights[rank % degrees.replica_size], sum(map(bool, heights))
    rank %= degrees.replica_size
    if degrees.replica_size == 1 or not height:
        return Counter()
    text = json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, sort_keys=True)
    frames, columns = latents[1], latents[3]
    exchanged = _trace(text, min(frames, FEW_FRAMES), columns, way)
    if frames > FEW_FRAMES:
        exchanged = exchanged.with_more(_trace(text, FEW_FRAMES + 1, columns, way), frames - FEW_FRAMES)
    halo = (exchanged.up if rank > 0 else 0) + (exchanged.down if rank + 1 < holders else 0)
    return Counter(vae_halo=halo * vae_bytes, vae_attention=height * exchanged.attention * vae_bytes * (holders - 1))


@cache
def _trace(config: str, frames: int, columns: int, way: Way) -> _Exchanged:
    """Of a VAE whose configuration is JSON, with one row of latents."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
    from torch import Tensor, nn

    up = down = attention = 0

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal up, down, attention
        x: Tensor = given[0]
        row = x.numel() // x.shape[-2]
        match module:
            case WanAttentionBlock():
                attention += 2 * x.numel()
            case WanCausalConv3d(kernel_size=(_, 3, _)):
                remembered = given[1] if len(given) > 1 else None
                both = row if remembered is None else row + remembered.numel() // remembered.shape[-2]
                up, down = up + both, down + both
            case nn.Conv2d(kernel_size=(3, _), padding=(1, _)):
                up, down = up + row, down + row
            case nn.ZeroPad2d(padding=(_, _, above, below)):
                up, down = up + row * below, down + row * above

    with torch.device("meta"), torch.inference_mode():
        vae = make_autoencoder("wan", json.loads(config))
        for module in vae.modules():
            module.register_forward_pre_hook(look)
        if way == "decode":
            given = torch.empty(1, vae.config.z_dim, frames, 1, columns)
        else:
            temporal, spatial = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
            given = torch.empty(1, 3, (frames - 1) * temporal + 1, spatial, columns * spatial)
        getattr(vae, way)(given)
    return _Exchanged(up, down, attention)


def _scales(config: Mapping[str, Any]) -> tuple[int, int]:
    """Frames of a latent frame after the first, and pixels of a latent row."""
    return config.get("scale_factor_temporal", 4), config.get("scale_factor_spatial", 8)
