"""Pixels to latents and back for HunyuanVideo and HunyuanVideo 1.5: videos by all ranks of a replica, tile by tile."""

from collections import deque
from collections.abc import Generator
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from engine.components.dtypes import vae_dtype
from engine.components.files import load_module
from engine.components.memory_format import to_channels_last
from engine.components.residence import Residence, at_home
from engine.components.tiling import join_chunks
from engine.config import Config
from engine.media.video import NOT_FINITE
from engine.models.families import HUNYUAN_VIDEO
from engine.models.tiles import Cut, hunyuan_cut
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.tiles import count_tiles, shared_tiles


def load_hunyuan_autoencoder(
    config: Config, ranks: Ranks, residence: Residence | None = None, kind: Any = AutoencoderKLHunyuanVideo
) -> "HunyuanAutoencoder":
    """The VAE of the model; its halves are on the device while they work.

    Args:
        kind: the diffusers class of the VAE.
    """
    vae = load_module(kind, config.model.path, "vae", vae_dtype(config, ranks.device, HUNYUAN_VIDEO))  # as 1.5's is
    if config.model.vae_channels_last:
        to_channels_last(vae)
    return HunyuanAutoencoder(vae, ranks, config.model.vae_tiling is not False, residence)


class HunyuanAutoencoder:
    """The VAE of HunyuanVideo or HunyuanVideo 1.5, whose tiles the ranks of a replica share out.

    Every rank has all weights, calls :meth:`decode` in the same order, and exhausts each iterator before the next call.
    Strips of rows would not be exact here as they are with Wan: attention reads the whole frame and earlier frames, and
    so do the group norms of 1.0. Tiles are exact: they are what one rank decodes, too. 1.0 cuts time as well, into
    chunks of few frames, so that its memory does not grow with the length of a video; a tile of 1.5 has all frames.
    """

    def __init__(self, vae: Any, ranks: Ranks, tiled: bool = True, residence: Residence | None = None) -> None:
        """
        Args:
            tiled: cut frames that are larger than a tile, as diffusers does with ``vae.enable_tiling()``.
        """
        self._vae = vae.eval()
        self._ranks = ranks
        self._tiled = tiled
        self._temporal = vae.temporal_compression_ratio
        if tiled:
            vae.enable_tiling()
        residence = at_home(ranks.device, residence)
        self._decoder = _Decoder(vae)
        self._decoding = residence.settle(self._decoder)
        if ranks.replica_rank == 0:  # which alone encodes
            self._encoding = residence.settle(_EncoderHalf(vae))

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """Encode a video on this rank alone.

        Args:
            video: [1, 3, frames, height, width] in [-1, 1], on the CPU or the device.

        Returns:
            The mode of the posterior, scaled as the transformer expects them: float32 [1, channels, latent frames,
            latent height, latent width] on the rank's device.
        """
        device = self._ranks.device
        with self._encoding.on_device():
            latents: Tensor = self._vae.encode(video.to(device, self._vae.dtype)).latent_dist.mode()
        return latents.float() * self._vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """As :meth:`engine.components.parts.VideoDecoder.decode`: 1.0 gives the frames of one chunk of time after the
        other, 1.5 all frames in the end."""
        cut = self._cut(latents)
        places = cut.places
        scaled = latents[None].to(self._ranks.device, self._vae.dtype) / self._vae.config.scaling_factor

        def decode_tile(number: int) -> Tensor:
            frames, rows, columns = places[number]
            tile: Tensor = self._decoder(scaled[:, :, frames, rows, columns])
            return tile.contiguous()

        with self._decoding.on_device():
            shapes = cut.shapes(self._vae)
            tiles = shared_tiles(shapes, self._vae.dtype, decode_tile, *NOT_FINITE, self._ranks, meter)
            if self._ranks.replica_rank == 0:
                for chunk in join_chunks(cut, tiles):
                    for frames in chunk.split(self._temporal, dim=1):
                        yield frames.permute(1, 2, 3, 0).contiguous()
            deque(tiles, maxlen=0)  # on other ranks none come, but are made and sent

    def shares(self, latents: Tensor) -> dict[str, Any]:
        """As :meth:`engine.components.parts.VideoDecoder.shares`."""
        counts = count_tiles(self._cut(latents).shapes(self._vae), self._ranks.replica_size)
        return {"cut": "tiles", "per_rank": counts}

    def _cut(self, latents: Tensor) -> Cut:
        return hunyuan_cut(self._vae, latents.shape, self._tiled)


class _Decoder(nn.Module):
    """The decoder of a VAE, for one tile."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.post_quant_conv = getattr(vae, "post_quant_conv", None)  # 1.5 has none

    def forward(self, latents: Tensor) -> Tensor:
        """[1, channels, frames, height, width] → [1, 3, frames, height, width] in [-1, 1]"""
        out: Tensor = self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
        return out


class _EncoderHalf(nn.Module):
    """What ``vae.encode`` uses of a VAE."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = getattr(vae, "quant_conv", None)  # 1.5 has none
