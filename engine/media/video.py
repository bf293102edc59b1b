"""Writes frames to a video file."""

from collections.abc import Generator, Iterable
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor


def write_video(chunks: Iterable[Tensor], path: Path, fps: int, height: int, width: int) -> None:
    """Write frames as H.264 in MP4, one chunk after the other.

    Args:
        chunks: uint8 [frames, height, width, 3] each, on the CPU.

    Raises:
        OSError: the file cannot be written.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's macroblock tree reads memory that it has not written on frames as small as the small model's:
        # with it the same frames gave another file each time
        stream.options = {"crf": "12", "preset": "medium", "x264-params": "mbtree=0"}
        for frames in chunks:
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        container.mux(stream.encode())


def drop_frames(chunks: Generator[Tensor, None, None], count: int) -> Generator[Tensor, None, None]:
    """Chunks of frames [frames, height, width, 3], without the first ``count`` frames of the video."""
    with closing(chunks):
        for frames in chunks:
            kept = frames[count:]
            count = max(count - len(frames), 0)
            if len(kept):
                yield kept


def to_uint8(video: Tensor) -> Tensor:
    """The VAE's output in [-1, 1] → uint8 in 0 to 255, in the same shape."""
    return (video.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
