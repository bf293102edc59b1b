"""Bytes that a rank sends while a replica shares out a VAE's tiles, counted as :mod:`parallel.meter` counts them.

``vae_tiles``: each tile that another rank than the first has made, to the first. ``vae_agreement``: one number for each
round of tiles. ``broadcast``: what Wan has encoded, from the first rank to all; HunyuanVideo's image is encoded by the
first rank alone.

Tiles are those of a VAE on the meta device, where tensors have shapes and no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from engine.cost.autoencoders import make_autoencoder
from engine.cost.shape import Kind
from engine.models.tiles import Shape, hunyuan_cut, wan_decoded_shapes, wan_encoded_shapes
from parallel.degrees import Degrees
from parallel.lengths import share_out

_FLOAT64 = 8
Latents = tuple[int, int, int, int]
"""Channels, frames, rows and columns, as ``ModelFacts.latents_shape`` gives them."""


def decoded_tile_bytes(
    kind: Kind,
    config: Mapping[str, Any],
    latents: Latents,
    degrees: Degrees,
    rank: int = 0,
    vae_bytes: int = 4,
    *,
    tiled: bool = True,
) -> dict[str, int]:
    """Sent by a rank while one video is decoded, by kind.

    Args:
        config: the VAE's ``config.json``; a key that is left out has the default of diffusers' class.
        vae_bytes: of a number in the VAE.
        tiled: HunyuanVideo: with ``model.vae_tiling=false`` a tile has whole frames.
    """
    vae = _on_meta(kind, config)
    shapes = wan_decoded_shapes(vae, latents) if kind == "wan" else hunyuan_cut(vae, latents, tiled).shapes(vae)
    return _shared_bytes(shapes, degrees, rank, vae_bytes)


def encoded_tile_bytes(
    config: Mapping[str, Any], latents: Latents, degrees: Degrees, rank: int = 0, vae_bytes: int = 4
) -> dict[str, int]:
    """Sent by a rank while a Wan VAE encodes one video, of a given image and perhaps zeros; arguments as above."""
    vae = _on_meta("wan", config)
    temporal, spatial = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
    frames, rows, columns = latents[1:]
    video = (1, 3, (frames - 1) * temporal + 1, rows * spatial, columns * spatial)
    sent = _shared_bytes(wan_encoded_shapes(vae, video), degrees, rank, vae_bytes)
    if degrees.replica_size > 1 and rank % degrees.replica_size == 0:
        sent["broadcast"] = prod(latents) * vae_bytes * (degrees.replica_size - 1)
    return sent


def _shared_bytes(shapes: Sequence[Shape], degrees: Degrees, rank: int, vae_bytes: int) -> dict[str, int]:
    ranks = degrees.replica_size
    if ranks == 1:
        return {}
    sizes = [prod(shape) for shape in shapes]
    rounds = share_out(sizes, ranks)
    owners = [owner for of_round in rounds for owner in of_round]
    rank %= ranks
    made = sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank)
    sent = {"vae_tiles": made * vae_bytes if rank > 0 else 0, "vae_agreement": len(rounds) * _FLOAT64 * (ranks - 1)}
    return {kind: size for kind, size in sent.items() if size}


def _on_meta(kind: Kind, config: Mapping[str, Any]) -> Any:
    import torch

    with torch.device("meta"):
        return make_autoencoder(kind, {key: value for key, value in config.items() if not key.startswith("_")})
