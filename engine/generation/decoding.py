"""The decode and write stages of a request: latents become video files."""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.config import SamplingConfig
from engine.execution.loaded import LoadedModel
from engine.files import StagedFiles, numbered
from engine.generation.metrics import RequestMetrics
from engine.media.video import drop_frames, write_video


def decode_videos(
    model: LoadedModel,
    sampling: SamplingConfig,
    latents: Tensor,
    output: Path,
    files: StagedFiles,
    metrics: RequestMetrics,
) -> list[dict[str, Any]]:
    """Decode every sample and write its video while the frames come; collective over the replica.

    Args:
        latents: final, [samples, channels, frames, height, width], equal on every rank.
        output: the video file, numbered where there are several samples.
        files: where the first rank stages the videos.

    Returns:
        On the first rank each video's entry in the report; nothing on the others.

    Raises:
        OSError: a video cannot be written.
    """
    videos = []
    for path, sample in zip(numbered(output, len(latents)), latents, strict=True):
        total = sampling.frames - model.facts.dropped_frames
        with closing(_decoded(model, sample, total, metrics)) as chunks:
            if model.is_first:
                frames_hash = FramesHash()
                with metrics.timed("write"):
                    staged = files.stage(path)
                    write_video(frames_hash.watch(chunks), staged, sampling.fps, sampling.height, sampling.width)
                size = staged.stat().st_size
                videos.append({"path": str(path), "frames_sha256": frames_hash.hexdigest(), "bytes": size})
            else:
                deque(chunks, maxlen=0)  # no frames come, but this rank's rows are decoded and sent
    return videos


def _decoded(model: LoadedModel, sample: Tensor, total: int, metrics: RequestMetrics) -> Generator[Tensor, None, None]:
    """Chunks of frames of one sample, ``total`` in all; the time spent here counts as decoding, also while the writer
    waits for it."""
    count = 0
    decoded = model.autoencoder.decode(sample, metrics.meter)
    with closing(drop_frames(decoded, model.facts.dropped_frames)) as chunks:
        while True:
            with metrics.timed("decode"):
                frames = next(chunks, None)
            if frames is None:
                return
            count += len(frames)
            metrics.note_decoded(count, total)
            yield frames


class FramesHash:
    """SHA-256 of the uint8 frames [frames, height, width, 3] before video compression, row-major, as they pass."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def watch(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Hand the chunks on, one after the other."""
        for frames in chunks:
            self._sha256.update(frames.numpy().tobytes())
            yield frames

    def hexdigest(self) -> str:
        """The hash of what has passed."""
        return self._sha256.hexdigest()
