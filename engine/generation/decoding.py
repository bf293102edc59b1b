"""The decode and write stages of a request: latents become video files."""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.config import RuntimeConfig, SamplingConfig
from engine.execution.loaded import LoadedModel
from engine.generation.metrics import RequestMetrics
from engine.media.video import drop_frames, write_video
from engine.progress import Progress
from engine.storage.disks import Trouble
from engine.storage.files import StagedFiles, numbered
from parallel.broadcast import objects_of_all
from parallel.ranks import set_timeouts

_WATCHED_WAIT_SECONDS = 86400.0


def limit_waits(runtime: RuntimeConfig, progress: Progress) -> None:
    """Set how long ranks wait for one that decodes or writes. Where somebody watches them, that does not end a wait for
    a rank that gets on, however long it takes."""
    set_timeouts(_WATCHED_WAIT_SECONDS if progress.is_watched else runtime.load_timeout_seconds)


class WriteFailed(Exception):
    """A file could not be written. Raised on all ranks of the replica alike; the request can go on."""

    def __init__(self, first: Trouble, own: Trouble | None) -> None:
        """
        Args:
            first: what the first rank met that met anything. own: what this rank met.
        """
        super().__init__(str(first))
        self.first = first
        self.own = own


def decode_videos(
    model: LoadedModel,
    sampling: SamplingConfig,
    latents: Tensor,
    output: Path,
    files: StagedFiles,
    metrics: RequestMetrics,
    comment: Callable[[int], str | None],
) -> list[dict[str, Any]]:
    """Decode every sample and write its video while the frames come; collective over the replica.

    Args:
        latents: final, [samples, channels, frames, height, width], equal on every rank.
        output: the video file, numbered where there are several samples.
        files: where the first rank stages the videos.
        comment: what the file of a sample says of it; called on the first rank, and may raise OSError.

    Returns:
        On the first rank each video's entry in the report; nothing on the others.

    Raises:
        WriteFailed: a video cannot be written.
    """
    videos = []
    for number, (path, sample) in enumerate(zip(numbered(output, len(latents)), latents, strict=True)):
        total = sampling.frames - model.facts.dropped_frames
        # known to all before the first frame, since a decoding that has begun runs to its end
        staged, said, error = _stage(path, files, number, comment) if model.is_first else (None, None, None)
        agree_on(error, path.parent, model)
        shares = model.autoencoder.shares(sample)
        with closing(_decoded(model, sample, total, metrics)) as chunks:
            if staged is not None:
                frames_hash = FramesHash()
                with metrics.timed("write"):
                    try:
                        size = (sampling.height, sampling.width)
                        write_video(frames_hash.watch(chunks), staged, sampling.fps, *size, said)
                    except OSError as failed:
                        error = failed
                written = {"path": str(path), "frames_sha256": frames_hash.hexdigest()}
            # on other ranks no frames come, but their rows are decoded and sent; on the first, what did not get written
            deque(chunks, maxlen=0)
        agree_on(error, path.parent, model)
        if staged is not None:
            videos.append(written | {"bytes": staged.stat().st_size, "decoded": shares})
    return videos


def agree_on(error: OSError | None, folder: Path, model: LoadedModel) -> None:
    """Tell all ranks what this one met when it wrote to a folder. Collective over the replica.

    Raises:
        WriteFailed: some rank met an error; on all ranks.
    """
    own = Trouble.of(error, folder) if error is not None else None
    first = next((trouble for trouble in objects_of_all(own, model.ranks) if trouble is not None), None)
    if first is not None:
        raise WriteFailed(first, own)


def _stage(
    path: Path, files: StagedFiles, sample: int, comment: Callable[[int], str | None]
) -> tuple[Path | None, str | None, OSError | None]:
    """A temporary file for a sample's video and what it is to say, or what hindered that."""
    try:
        return files.stage(path), comment(sample), None
    except OSError as error:
        return None, None, error


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
