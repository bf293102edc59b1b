"""Frames to a video file."""

from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor


def write_video(frames: Tensor, path: Path, fps: int) -> None:
    """Write uint8 frames [frames, height, width, 3] as H.264 in MP4.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = frames.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's macroblock tree reads memory that it has not written on frames as small as the small model's:
        # with it the same frames gave another file each time
        stream.options = {"crf": "12", "preset": "medium", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        container.mux(stream.encode())


def to_uint8(video: Tensor) -> Tensor:
    """VAE output in [-1, 1], [channels, frames, height, width] → uint8 [frames, height, width, channels]."""
    scaled = (video.float() / 2 + 0.5).clamp(0, 1).mul(255).round()
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu()
