"""Writes frames to a video file."""

import errno
import io
import os
from collections.abc import Generator, Iterable
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor

from parallel.agreement import require_finite
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

# ITU-T H.273: BT.709 primaries, transfer function and matrix, each with the number 1; 16 to 235 for luma
_BT709, _LIMITED_RANGE = 1, 1
NOT_FINITE = ("The decoded frames", "check the VAE's weights, or decode with model.vae_dtype=float32")
"""What may not be finite, and what to do then."""


def write_video(
    chunks: Iterable[Tensor], path: Path, fps: float, height: int, width: int, comment: str | None = None
) -> None:
    """Write frames as H.264 in MP4, one chunk after the other.

    Colours are converted by the matrix of BT.709 and tagged so: a player would take an untagged file by BT.601 or
    BT.709, whichever it guesses from the height. The index comes before the frames, so that a browser can begin to
    play while it still downloads.

    Args:
        chunks: uint8 [frames, height, width, 3] each, on the CPU.
        fps: frames per second, as :func:`frame_rate` takes them.
        height, width: even, since yuv420p keeps one colour for two by two pixels.
        comment: the text of the file's comment tag, without null characters; None for a file without.

    Raises:
        OSError: the file cannot be written.
        ValueError: the height or the width is odd.
    """
    if height % 2 or width % 2:
        raise ValueError(f"A video of {width}×{height} pixels cannot be written: both have to be even.")
    with _VideoFile(path) as file:
        try:
            _encode(chunks, file, fps, height, width, comment)
        except Exception:
            if file.error is None:
                raise
        if file.error is not None:  # what PyAV raises after an error here does not say which it was
            raise file.error


class _VideoFile(io.FileIO):
    """A file that PyAV writes to. One that it opened itself, it would not close after an error: on a full disk the
    room of the removed file would stay taken.

    error: the first one in writing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), "r+")
        self.name = str(path)  # PyAV opens it again by name to put the index before the frames
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:  # type: ignore[override]
        view, done = memoryview(data), 0
        try:
            while done < len(view):  # a disk that fills up takes a part first
                written = super().write(view[done:])
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
                done += written
        except OSError as error:
            self.error = self.error or error
            raise
        return done


def _encode(
    chunks: Iterable[Tensor], file: _VideoFile, fps: float, height: int, width: int, comment: str | None
) -> None:
    with av.open(file, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=frame_rate(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's macroblock tree reads memory that it has not written on frames as small as the small model's:
        # with it the same frames gave another file each time
        stream.options = {"crf": "12", "preset": "medium", "x264-params": "mbtree=0"}
        codec = stream.codec_context
        codec.color_primaries = codec.color_trc = codec.colorspace = _BT709
        codec.color_range = _LIMITED_RANGE
        for frames in chunks:
            for frame in frames:
                container.mux(stream.encode(_to_yuv(frame)))
        container.mux(stream.encode())


def frame_rate(fps: float) -> Fraction:
    """Frames per second as the file counts them: 24000/1001 for 23.976 and 23.98, 30000/1001 for 29.97, 60000/1001 for
    59.94 (SMPTE ST 12-1), and any other decimal as it is, to a denominator of 10000."""
    television = Fraction(round(fps) * 1000, 1001)
    if fps != round(fps) and abs(fps - television) < 0.005:
        return television
    return Fraction(str(fps)).limit_denominator(10_000)


def _to_yuv(frame: Tensor) -> av.VideoFrame:
    """One frame, uint8 [height, width, 3], as the encoder takes it."""
    rgb = av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def drop_frames(chunks: Generator[Tensor, None, None], count: int) -> Generator[Tensor, None, None]:
    """Chunks of frames [frames, height, width, 3], without the first ``count`` frames of the video."""
    with closing(chunks):
        for frames in chunks:
            kept = frames[count:]
            count = max(count - len(frames), 0)
            if len(kept):
                yield kept


def require_finite_frames(frames: Tensor | None, ranks: Ranks, meter: CollectiveMeter) -> None:
    """Refuse frames that some rank has decoded to NaN or infinity; collective over the replica.

    Args:
        frames: this rank's part of them, before values beyond black and white are cut off, on its device; None without.

    Raises:
        NotFiniteError: on all ranks alike.
    """
    finite = torch.ones((), dtype=torch.bool, device=ranks.device) if frames is None else frames.isfinite().all()
    require_finite(finite, *NOT_FINITE, ranks, meter)


def to_uint8(video: Tensor) -> Tensor:
    """The VAE's output, where [-1, 1] are black and white → uint8 in 0 to 255, in the same shape.

    NaN would become black, and infinity black or white: callers check for it, on all ranks together.
    """
    return (video.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
