"""How far a video is from the one it should be."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

IDENTICAL_PSNR = 100.0


def psnr(frames: Tensor, expected: Tensor) -> float:
    """Decibels over all pixels of a video, both uint8 [frames, height, width, 3]; identical videos count as 100."""
    if torch.equal(frames, expected):
        return IDENTICAL_PSNR
    return float(peak_signal_noise_ratio(expected.numpy(), frames.numpy(), data_range=255))


def ssim(frames: Tensor, expected: Tensor) -> float:
    """Mean over the frames, 7 x 7 window, colour channels averaged (Wang et al. 2004); arguments as :func:`psnr`'s."""
    values = [
        structural_similarity(a, b, channel_axis=-1, data_range=255)
        for a, b in zip(expected.numpy(), frames.numpy(), strict=True)
    ]
    return float(np.mean(values))
