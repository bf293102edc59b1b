"""The Wan VAE: pixels to latents and back, on all ranks of a replica together."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor, nn

from engine.components.dtypes import vae_dtype
from engine.components.memory_format import to_channels_last
from engine.components.residence import Residence, at_home
from engine.components.single_files import load_weights
from engine.components.wan.tiles import count_decode_tiles, decode_tiles, encode_tiles, needs_tiles
from engine.config import Config
from engine.media.video import require_finite_frames, to_uint8
from engine.models.families import WAN
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.rows import Strips, plan_strips
from parallel.wan_autoencoder import spread_rows


def load_wan_autoencoder(config: Config, ranks: Ranks, residence: Residence | None = None) -> "WanAutoencoder":
    """The VAE of the model; its halves are on the device while they work."""
    vae = load_weights(AutoencoderKLWan, config, "vae", vae_dtype(config, ranks.device, WAN))
    if config.model.vae_channels_last:
        to_channels_last(vae)
    return WanAutoencoder(vae.eval(), ranks, config.model.vae_tiling, residence)


class WanAutoencoder:
    """A Wan VAE whose frames are cut into strips of rows, one for each rank of the replica, or into tiles.

    Every rank has all weights, calls the same methods in the same order, and exhausts each iterator before the next
    call. Strips are processed one latent frame at a time, so memory does not grow with the length of the video.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        ranks: Ranks,
        tiling: bool | Literal["auto"] = False,
        residence: Residence | None = None,
    ) -> None:
        """
        Args:
            tiling: in tiles; auto where strips are too much for the card.
        """
        self._vae = vae
        self._ranks = ranks
        self._tiling = tiling
        self._exchange = spread_rows(vae, ranks)
        residence = at_home(ranks.device, residence)
        self._decoding, self._encoding = residence.settle(_Decoder(vae)), residence.settle(_Encoder(vae))

    @torch.inference_mode()
    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """Decode one sample; collective.

        Args:
            latents: [channels, frames, height, width], equal on every rank.
            meter: counts the bytes sent.

        Returns:
            On the replica's first rank uint8 frames [frames, height, width, 3] on the CPU. In strips one latent frame
            after the other: 1 frame for the first, 4 for each of the others. On the other ranks nothing is yielded:
            their work is done when the iterator ends.

        Raises:
            NotFiniteError: some rank has decoded to NaN or infinity; on all ranks alike.
        """
        if self._is_tiled(latents):
            self._exchange.begin(Strips((1,)), meter)  # each rank has all rows of its tiles
            decoder = _Decoder(self._vae)
            with self._decoding.on_device():
                yield from decode_tiles(self._vae, decoder, self._unscaled(latents), self._ranks, meter)
            return
        with closing(self._strips(latents, meter)) as strips:
            for _ in range(latents.shape[1]):
                strip = next(strips, None)  # None on a rank without rows, which waits for the verdict all the same
                require_finite_frames(strip, self._ranks, meter)
                if strip is None:
                    continue
                frames = self._exchange.gather_for_first("vae_gather", to_uint8(strip))
                if self._ranks.replica_rank == 0:
                    yield frames.permute(1, 2, 3, 0).contiguous().cpu()

    @torch.inference_mode()
    def decode_strip(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """As :meth:`decode`, but this rank's rows alone: [3, frames, rows, width] in [-1, 1], of the VAE's dtype, and
        without a look at whether they are finite."""
        for strip in self._strips(latents, meter):
            yield strip.clamp(-1.0, 1.0)

    def _strips(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """As :meth:`decode_strip`, before values beyond black and white are cut off: infinity would become white."""
        strips = plan_strips(latents.shape[-2], self._ranks)
        self._exchange.begin(strips, meter)
        if strips.height == 0:
            return
        decoder = _Decoder(self._vae)
        with self._decoding.on_device():
            for video in decoder(self._unscaled(strips.cut(latents))):
                yield video[0]

    def shares(self, latents: Tensor) -> dict[str, Any]:
        """As :meth:`engine.components.parts.VideoDecoder.shares`."""
        if self._is_tiled(latents):
            return {"cut": "tiles", "per_rank": count_decode_tiles(self._vae, latents[None], self._ranks)}
        return {"cut": "rows", "per_rank": list(plan_strips(latents.shape[-2], self._ranks).heights)}

    def _is_tiled(self, latents: Tensor) -> bool:
        if self._tiling == "auto":
            return needs_tiles(self._vae, latents.shape, self._ranks)
        return self._tiling

    def _unscaled(self, latents: Tensor) -> Tensor:
        """[channels, frames, height, width] as the transformer makes them → [1, ...] as the decoder takes them."""
        mean, std = self._statistics(self._ranks.device, self._vae.dtype)
        # divide by the reciprocal, as diffusers does: a product rounds differently in the last bit
        return latents[None].to(std) / (1.0 / std) + mean

    @torch.inference_mode()
    def encode(self, video: Tensor, meter: CollectiveMeter) -> Tensor:
        """Encode one video; collective.

        Args:
            video: [3, frames, height, width] in [-1, 1], equal on every rank, on the CPU or the device.
            meter: counts the bytes sent.

        Returns:
            The mean of the posterior, normalised as the transformer expects latents: float32 [channels, frames,
            height, width] on the ranks' device, equal on every rank.

        Raises:
            ValueError: the video has another size than whole latents have.
        """
        config = self._vae.config
        temporal, spatial = config.scale_factor_temporal, config.scale_factor_spatial
        _, frames, height, width = video.shape
        if (frames - 1) % temporal or height % spatial or width % spatial:
            raise ValueError(
                f"A video of {frames} frames and {width}×{height} pixels cannot be encoded: this VAE needs "
                f"{temporal}n+1 frames and multiples of {spatial} pixels."
            )
        device = self._ranks.device
        strips = plan_strips(height // spatial, self._ranks)
        if self._is_tiled(video[..., ::spatial, ::spatial]):
            self._exchange.begin(Strips((1,)), meter)
            encoder = _Encoder(self._vae)
            with self._encoding.on_device():
                latents = encode_tiles(self._vae, encoder, video[None], self._ranks, meter)
            return self._scaled(latents)
        self._exchange.begin(strips, meter)
        if strips.height:
            encoder = _Encoder(self._vae)
            with self._encoding.on_device():
                pieces = strips.cut(video, scale=spatial)[None].split([1] + [temporal] * ((frames - 1) // temporal), 2)
                latents = encoder(piece.to(device, self._vae.dtype) for piece in pieces)
        else:
            shape = (1, config.z_dim, (frames - 1) // temporal + 1, 0, width // spatial)
            latents = torch.empty(shape, dtype=self._vae.dtype, device=device)
        return self._scaled(self._exchange.gather_for_all("vae_gather", latents))

    def _scaled(self, latents: Tensor) -> Tensor:
        """[1, ...] as the encoder makes them → float32 [channels, frames, height, width] as the transformer takes
        them."""
        latents = latents.float()
        mean, std = self._statistics(latents.device, latents.dtype)
        return ((latents - mean) * (1.0 / std))[0]

    def _statistics(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the latents, [1, channels, 1, 1, 1]."""
        config = self._vae.config
        published = (config.latents_mean, config.latents_std)
        mean, std = (torch.tensor(values, device=device, dtype=dtype) for values in published)
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


class _Decoder(nn.Module):
    """The decoder of a VAE. The frames that its causal convolutions cache are freed at the end of each call."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder
        self._patch_size = vae.config.patch_size or 1

    def forward(self, latents: Tensor, packed: bool = False) -> Iterator[Tensor]:
        """[1, channels, frames, height, width] → pixels for one latent frame after the other; [-1, 1] are black and
        white.

        Args:
            packed: leave the pixels as the VAE packs them, several in the channels of one.
        """
        cache = _empty_cache(self.decoder)
        hidden = self.post_quant_conv(latents)
        for i, frame in enumerate(hidden.split(1, dim=2)):
            patches = self.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
            yield patches if packed else unpatchify(patches, self._patch_size)


class _Encoder(nn.Module):
    """The encoder of a VAE. The frames that its causal convolutions cache are freed at the end of each call."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self._patch_size = vae.config.patch_size or 1

    def forward(self, pieces: Iterator[Tensor]) -> Tensor:
        """Pixels [1, 3, frames, height, width] for one latent frame after the other → the posterior's mean
        [1, channels, latent frames, latent height, latent width]."""
        cache = _empty_cache(self.encoder)
        hidden = [self.encoder(patchify(piece, self._patch_size), feat_cache=cache, feat_idx=[0]) for piece in pieces]
        mean: Tensor = self.quant_conv(torch.cat(hidden, dim=2)).chunk(2, dim=1)[0]
        return mean


def _empty_cache(half: nn.Module) -> list[Tensor | str | None]:
    """An empty cache entry for each causal convolution; diffusers' code fills them while the frames pass."""
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in half.modules())
