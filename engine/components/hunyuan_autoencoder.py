"""Pixels to latents and back for HunyuanVideo and HunyuanVideo 1.5: videos by all ranks of a replica, tile by tile."""

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from engine.components.dtypes import vae_dtype
from engine.components.files import load_module
from engine.components.memory_format import to_channels_last
from engine.components.residence import Residence, at_home
from engine.components.tiling import Axis, Grid, blend, decode_grid
from engine.config import Config
from engine.media.video import NOT_FINITE, to_uint8
from engine.models.families import HUNYUAN_VIDEO
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.tiles import Shape, count_tiles, shared_tiles


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
        self._temporal, self._spatial = vae.temporal_compression_ratio, vae.spatial_compression_ratio
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
            shapes = self._shapes(cut)
            tiles = shared_tiles(shapes, self._vae.dtype, decode_tile, *NOT_FINITE, self._ranks, meter)
            if self._ranks.replica_rank == 0:
                for chunk in cut.join(tiles):
                    for frames in chunk.split(self._temporal, dim=1):
                        yield frames.permute(1, 2, 3, 0).contiguous()
            deque(tiles, maxlen=0)  # on other ranks none come, but are made and sent

    def shares(self, latents: Tensor) -> dict[str, Any]:
        """As :meth:`engine.components.parts.VideoDecoder.shares`."""
        counts = count_tiles(self._shapes(self._cut(latents)), self._ranks.replica_size)
        return {"cut": "tiles", "per_rank": counts}

    def _cut(self, latents: Tensor) -> "_Cut":
        frames, height, width = latents.shape[-3:]
        grid = Grid(*(Axis.whole(length, length * self._spatial) for length in (height, width)))
        if self._tiled:
            grid = decode_grid(self._vae, height, width, self._spatial)
        vae = self._vae
        size = getattr(vae, "tile_sample_min_num_frames", None)  # 1.5 does not cut time
        if size is None or not vae.use_framewise_decoding or frames <= size // self._temporal:
            return _Cut(Axis.whole(frames, (frames - 1) * self._temporal + 1), grid)
        keep = vae.tile_sample_stride_num_frames
        return _Cut(Axis(frames, size // self._temporal + 1, keep // self._temporal, keep, size - keep), grid)

    def _shapes(self, cut: "_Cut") -> list[Shape]:
        """Of the decoded tiles."""
        scales = (self._temporal, self._spatial, self._spatial)
        shapes: list[Shape] = []
        for place in cut.places:
            frames, height, width = (
                (piece.stop - piece.start) * scale for piece, scale in zip(place, scales, strict=True)
            )
            shapes.append((1, self._vae.config.out_channels, frames - self._temporal + 1, height, width))
        return shapes


@dataclass(frozen=True)
class _Cut:
    """The tiles of a video.

    time: latent frames. More than four 1.0 decodes in chunks of five, each with a first frame by itself.
    grid: rows and columns of latents.
    """

    time: Axis
    grid: Grid

    @property
    def places(self) -> list[tuple[slice, slice, slice]]:
        """Latent frames, rows and columns of each tile, one chunk after the other."""
        return [(chunk, *place) for chunk in self._chunks for place in self.grid.tiles]

    @property
    def _chunks(self) -> list[slice]:
        """Without a last one whose only frame is the one that chunks after the first leave out."""
        return [piece for piece in self.time.pieces if piece.start == 0 or piece.stop - piece.start > 1]

    def join(self, tiles: Iterator[Tensor]) -> Iterator[Tensor]:
        """Finished tiles → uint8 frames [3, frames, height, width] on the CPU, chunk for chunk."""
        if len(self._chunks) == 1:  # a row is finished once it is blended, and need not stay on the device
            yield torch.cat([to_uint8(row[0]).cpu() for row in self.grid.join(tiles)], dim=-2)
            return
        before: Tensor | None = None
        for _ in self._chunks:
            chunk = torch.cat(list(self.grid.join(islice(tiles, len(self.grid.tiles)))), dim=-2)
            if before is not None:
                chunk = chunk[:, :, 1:]
                blend(before, chunk, self.time.blend, 2)
            yield to_uint8(chunk[0, :, : self.time.keep + (before is None)]).cpu()
            before = chunk


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
