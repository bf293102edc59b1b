"""FLOPs of a VAE, counted by torch while it runs on the meta device, where tensors have shapes and no data.

A Wan VAE takes one latent frame after the other, and from the third on all cost the same: a long video is counted from
three frames and four. With several ranks each has its rows' share. A HunyuanVideo VAE runs in overlapping tiles, which
ranks share: each size of a tile is run once, and counted as often as it occurs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from engine.cost.shape import Kind

if TYPE_CHECKING:
    from torch import Tensor

Way = Literal["decode", "encode"]
FEW_FRAMES = 3  # latent frames of a Wan VAE after which the next ones cost the same


def autoencoder_flops(
    kind: Kind, config: Mapping[str, Any], latents: tuple[int, int, int, int], way: Way = "decode", tiled: bool = True
) -> int:
    """FLOPs of all ranks together for one video.

    Args:
        config: the VAE's ``config.json``; a key that is left out has the default of diffusers' class.
        latents: channels, frames, rows and columns, as ``ModelFacts.latents_shape`` gives them.
        way: to pixels, or from the pixels of a video of the same size.
        tiled: HunyuanVideo: in tiles; whole, as with ``model.vae_tiling=false``, if False.
    """
    text = json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, sort_keys=True)
    frames = latents[1]
    if kind == "wan" and frames > FEW_FRAMES + 1:
        few, one_more = (_trace(kind, text, _with_frames(latents, FEW_FRAMES + i), way, False) for i in (0, 1))
        return few + (frames - FEW_FRAMES) * (one_more - few)
    return _trace(kind, text, latents, way, tiled and kind != "wan")


def wan_bytes_per_pixel(config: Mapping[str, Any], element_bytes: int = 4) -> int:
    """Bytes alive at once for each pixel of the rows that a rank decodes with a Wan VAE, the weights not among them.

    Those of the two published kinds (``decode_bytes_per_pixel`` of the catalog), which tests trace, times the width of
    the decoder's last layers: all its layers have multiples of that.

    Args:
        config: the VAE's.
        element_bytes: of a number of the arithmetic.
    """
    if config.get("is_residual"):
        width = (config.get("decoder_base_dim") or config["base_dim"]) / (config.get("patch_size") or 1) ** 2
        return int(21_700 / 64 * width * element_bytes / 4)
    return int(19_600 / 96 * config.get("base_dim", 96) * element_bytes / 4)


@cache
def _trace(kind: Kind, config: str, latents: tuple[int, int, int, int], way: Way, tiled: bool) -> int:
    """Of a VAE whose configuration is JSON, so that it can be remembered by."""
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    class Counted(nn.Module):
        """Runs a part once for each shape, and adds up what it would cost."""

        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part
            self.flops = 0
            self.known: dict[torch.Size, tuple[int, torch.Size]] = {}

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if x.shape not in self.known:
                with FlopCounterMode(display=False) as counter:
                    shape = self.part(x, *args, **kwargs).shape
                self.known[x.shape] = counter.get_total_flops(), shape
            flops, shape = self.known[x.shape]
            self.flops += flops
            return x.new_empty(shape)

    with torch.device("meta"), torch.inference_mode():
        vae = make_autoencoder(kind, json.loads(config))
        channels, frames, rows, columns = latents
        if way == "decode":
            given = torch.empty(1, channels, frames, rows, columns)
        else:
            spatial, temporal = _scales(kind, vae.config)
            given = torch.empty(1, 3, (frames - 1) * temporal + 1, rows * spatial, columns * spatial)
        if kind == "wan":  # its parts remember frames, so each call counts
            with FlopCounterMode(display=False) as counter:
                getattr(vae, way)(given)
            return int(counter.get_total_flops())
        if tiled:
            vae.enable_tiling()
        parts = []
        for name in ("encoder", "quant_conv", "post_quant_conv", "decoder"):
            if isinstance(part := getattr(vae, name, None), nn.Module):
                parts.append(Counted(part))
                vae.set_submodule(name, parts[-1])
        getattr(vae, way)(given)
    return sum(part.flops for part in parts)


def make_autoencoder(kind: Kind, config: dict[str, Any]) -> Any:
    import diffusers

    names = {
        "wan": "AutoencoderKLWan",
        "hunyuan_video": "AutoencoderKLHunyuanVideo",
        "hunyuan_video15": "AutoencoderKLHunyuanVideo15",
    }
    return getattr(diffusers, names[kind]).from_config(config).eval().requires_grad_(False)


def _scales(kind: Kind, config: Any) -> tuple[int, int]:
    if kind == "wan":
        return config.scale_factor_spatial, config.scale_factor_temporal
    return config.spatial_compression_ratio, config.temporal_compression_ratio


def _with_frames(latents: tuple[int, int, int, int], frames: int) -> tuple[int, int, int, int]:
    return latents[0], frames, latents[2], latents[3]
