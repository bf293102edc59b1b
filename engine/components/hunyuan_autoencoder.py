"""Pixels to latents and back for HunyuanVideo and HunyuanVideo 1.5, on the first rank of a replica alone."""

from collections.abc import Generator
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from engine.components.dtypes import vae_dtype
from engine.components.files import load_module
from engine.components.residence import Residence, at_home
from engine.config import Config
from engine.media.video import require_finite_frames, to_uint8
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class HunyuanAutoencoder:
    """The VAE of HunyuanVideo or HunyuanVideo 1.5, on the first rank of a replica alone.

    Strips of rows would not be exact here as they are with Wan: attention reads the whole frame and earlier frames, and
    so do the group norms of 1.0. On CUDA diffusers' tiles bound the memory (a 720p video would not fit otherwise), and
    are blended where they overlap; on the CPU frames are whole. 1.0 decodes frames in chunks of time by itself.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        residence: Residence | None = None,
        kind: Any = AutoencoderKLHunyuanVideo,
    ) -> None:
        """
        Args:
            kind: the diffusers class of the VAE.
        """
        self._ranks = ranks
        self._device = ranks.device
        self._vae: Any = None  # on the other ranks
        if ranks.replica_rank == 0:
            self._vae = load_module(kind, config.model.path, "vae", vae_dtype(config))
            self._resident = at_home(ranks.device, residence).settle(self._vae)
            if ranks.device.type == "cuda":
                self._vae.enable_tiling()

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """Encode a video; on the first rank.

        Args:
            video: [1, 3, frames, height, width] in [-1, 1], on the CPU or the device.

        Returns:
            The mode of the posterior, scaled as the transformer expects them: float32 [1, channels, latent frames,
            latent height, latent width] on the rank's device.
        """
        assert self._vae is not None
        with self._resident.on_device():
            latents: Tensor = self._vae.encode(video.to(self._device, self._vae.dtype)).latent_dist.mode()
        return latents * self._vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """As :meth:`engine.components.parts.VideoDecoder.decode`; the other ranks wait for the first rank's verdict on
        whether the frames are finite."""
        if self._vae is None:
            return require_finite_frames(None, self._ranks, meter)
        with self._resident.on_device():
            scaled = latents[None].to(self._device, self._vae.dtype) / self._vae.config.scaling_factor
            video = self._vae.decode(scaled, return_dict=False)[0][0]
        require_finite_frames(video, self._ranks, meter)
        for frames in video.split(self._vae.config.temporal_compression_ratio, dim=1):
            yield to_uint8(frames).permute(1, 2, 3, 0).contiguous().cpu()
