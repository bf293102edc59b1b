"""Writes a request's checkpoints in a thread; the denoise loop waits only for the copy to the host's memory."""

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import shard_file
from engine.checkpoints.names import step_folder, step_folders
from engine.checkpoints.state import RequestState, cache_tensors, shared_tensors
from engine.progress import Progress
from parallel.ranks import Ranks
from parallel.sharding import Shards

KEPT = 2


class CheckpointWriter:
    """One rank's writer for one request.

    The ranks do not communicate: a checkpoint is complete once the files of all ranks are there. The first rank removes
    what is older than the newest two complete ones.
    """

    def __init__(self, folder: Path, ranks: Ranks, must_match: Mapping[str, Any], progress: Progress) -> None:
        """
        Args:
            folder: of the request, which all ranks of the replica see.
            must_match: values that a resuming run must share with this one.
            progress: told of each checkpoint that was written, and in a note of each that could not be; the request
                continues without it.
        """
        self.count = 0
        self.bytes = 0
        self.seconds = 0.0  # that the denoise loop waited
        self._folder = folder
        self._ranks = ranks
        self._must_match = must_match
        self._progress = progress
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[tuple[int, float]] | None = None
        self._host: dict[str, Tensor] = {}

    def save(self, state: RequestState, shards: Shards) -> None:
        """Write this rank's part in the background. Waits until the one before is written, so that ranks differ by one
        checkpoint at most."""
        started = time.perf_counter()
        self._finish_pending()
        tensors = cache_tensors(state)
        plain = self._plain(state, self._ranks.replica_size) | {"tokens": [shards.start, shards.length]}
        if self._ranks.replica_rank == 0:
            shared, values = shared_tensors(state)
            tensors |= shared
            plain |= values
        copied = self._copy(tensors)
        self._pending = self._thread.submit(self._write, copied, plain, self._ranks.replica_rank)
        self.seconds += time.perf_counter() - started

    def save_final(self, state: RequestState) -> None:
        """Write the final latents, on the first rank, and wait for it: the decoding after it may run out of memory."""
        started = time.perf_counter()
        self._finish_pending()
        if self._ranks.replica_rank == 0:
            tensors, values = shared_tensors(state)
            plain = self._plain(state, ranks=1) | {"tokens": [0, 0]} | values
            self._pending = self._thread.submit(self._write, self._copy(tensors), plain, 0)
            self._finish_pending()
        self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """Wait for what is being written, and end the thread."""
        self._finish_pending()
        self._thread.shutdown()

    def _plain(self, state: RequestState, ranks: int) -> dict[str, Any]:
        seconds = [[step, asdict(lane), value] for (step, lane), value in state.seconds.items()]
        return {"steps_done": state.steps_done, "ranks": ranks, "seconds": seconds, "must_match": self._must_match}

    def _copy(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """Copies of the tensors in host memory, and the CUDA event after which they are complete (None: at once).

        The memory is reused for the next checkpoint; for a GPU it is pinned, so that the copy is only queued here.
        """
        on_gpu = self._ranks.device.type == "cuda"
        for name, tensor in tensors.items():
            host = self._host.get(name)
            if host is None or host.shape != tensor.shape or host.dtype != tensor.dtype:
                self._host[name] = host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
            host.copy_(tensor, non_blocking=True)
        event = None
        if on_gpu:
            event = torch.cuda.Event()
            event.record()
        return {name: self._host[name] for name in tensors}, event

    def _write(self, copied: tuple[dict[str, Tensor], Any], plain: Mapping[str, Any], rank: int) -> tuple[int, float]:
        """Bytes written, and seconds that it took."""
        started = time.perf_counter()
        tensors, event = copied
        if event is not None:
            event.synchronize()
        step = step_folder(self._folder, plain["steps_done"])
        size = shard_file.write(step, rank, plain["ranks"], tensors, plain)
        if rank == 0:
            remove_old(self._folder)
        return size, time.perf_counter() - started

    def _finish_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            size, seconds = pending.result()
            self.bytes = max(self.bytes, size)
            self.count += 1
            self._progress.saved(seconds)
        except OSError as error:
            if self._ranks.rank == 0:
                self._progress.note(f"a checkpoint could not be written, and the run goes on without it: {error}")


def remove_old(folder: Path) -> None:
    """Remove all but the newest two complete checkpoints, and newer ones that are being written."""
    complete = [step for step in step_folders(folder) if shard_file.find(step)]
    for step in step_folders(folder):
        if len(complete) >= KEPT and step < complete[KEPT - 1]:
            shutil.rmtree(step, ignore_errors=True)
