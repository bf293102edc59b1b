"""Latents to pixels."""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from engine.components.files import load_component, on_device
from engine.config import Config


class VideoDecoder:
    """The VAE's decoder half."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._device = device
        self._vae = load_component(
            AutoencoderKLWan.from_pretrained, config.model.path, subfolder="vae", dtype=torch.float32
        ).eval()

    def decode(self, latents: Tensor) -> Tensor:
        """One sample's latents [channels, frames, height, width] → pixels in [-1, 1],
        [3, 4 (frames − 1) + 1, height, width]."""
        statistics = self._vae.config
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(statistics.latents_mean, device=latents.device).view(shape)
        std = torch.tensor(statistics.latents_std, device=latents.device).view(shape)
        with on_device(self._device, self._vae):
            # divide by the reciprocal, as diffusers does: a product rounds differently in the last bit
            video: Tensor = self._vae.decode(latents[None].float() / (1.0 / std) + mean, return_dict=False)[0]
        return video[0]
