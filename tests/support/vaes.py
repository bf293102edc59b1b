"""Reduced autoencoders of HunyuanVideo and HunyuanVideo 1.5 with random weights and tiles of 64 pixels."""

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15
from torch import Tensor, nn

CHANNELS = 4
SCALE = {"1.0": 8, "1.5": 16}


def make_hunyuan_vae(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """Equal weights for equal arguments. A tile has 64 x 64 pixels, the next starts 48 pixels on."""
    torch.manual_seed(0)
    vae: Any
    if kind == "1.0":
        vae = AutoencoderKLHunyuanVideo(
            latent_channels=CHANNELS, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
        )
        vae.enable_tiling(64, 64, None, 48, 48)
    else:
        vae = AutoencoderKLHunyuanVideo15(
            latent_channels=CHANNELS, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
        )
        vae.enable_tiling(64, 64, 4, 4)
    vae.use_tiling = False
    nn.Module.to(vae, dtype)
    return vae.eval()


def random_latents(frames: int, height: int, width: int) -> Tensor:
    """Float32 [channels, frames, height, width]."""
    return torch.randn(CHANNELS, frames, height, width, generator=torch.Generator().manual_seed(frames))
