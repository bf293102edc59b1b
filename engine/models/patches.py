"""Latents to tokens and back for the HunyuanVideo models."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def token_grid(latents_shape: torch.Size, config: Any) -> tuple[int, int, int]:
    """Tokens along frames, height and width of latents shaped [..., frames, height, width].

    Args:
        config: the transformer's, with ``patch_size_t`` and ``patch_size``.
    """
    frames, height, width = latents_shape[-3:]
    return frames // config.patch_size_t, height // config.patch_size, width // config.patch_size


def join_patches(tokens: Tensor, latents_shape: torch.Size, config: Any) -> Tensor:
    """[1, tokens, channels x patch volume] → [1, channels, frames, height, width]."""
    patch = config.patch_size_t, config.patch_size, config.patch_size
    patches = tokens.reshape(1, *token_grid(latents_shape, config), -1, *patch)
    return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def split_patches(latents: Tensor, config: Any) -> Tensor:
    """[1, channels, frames, height, width] → [1, tokens, channels x patch volume]: undoes :func:`join_patches`."""
    split = latents
    for dim, size in zip((2, 4, 6), (config.patch_size_t, config.patch_size, config.patch_size), strict=True):
        split = split.unflatten(dim, (-1, size))  # in the end channels, then grid and patch of each axis
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def mark_first_frame(image_latents: Tensor, frames: int) -> Tensor:
    """The channels beside noisy latents whose first frame is given: its latents and a channel of ones, then zeros.

    [1, channels, 1, height, width] → [1, channels + 1, frames, height, width].
    """
    first = torch.cat([image_latents, torch.ones_like(image_latents[:, :1])], dim=1)
    return F.pad(first, (0, 0, 0, 0, 0, frames - 1))
