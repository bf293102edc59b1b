"""The difference between two videos."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

IDENTICAL_PSNR = 100.0
"""Decibels for identical videos, whose PSNR is infinite."""


def psnr(frames: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, from the mean square error over all pixels of a video.

    Args:
        frames, expected: uint8 [frames, height, width, 3].
    """
    if torch.equal(frames, expected):
        return IDENTICAL_PSNR
    return float(peak_signal_noise_ratio(expected.numpy(), frames.numpy(), data_range=255))


def ssim(frames: Tensor, expected: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), with a 7 × 7 window, as the mean over colour channels and frames.

    Args:
        frames, expected: uint8 [frames, height, width, 3].
    """
    values = [
        structural_similarity(a, b, channel_axis=-1, data_range=255)
        for a, b in zip(expected.numpy(), frames.numpy(), strict=True)
    ]
    return float(np.mean(values))
