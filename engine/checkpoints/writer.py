"""Writes a request's checkpoints in a thread; the denoise loop waits only for the copy to the host's memory, and where
the disk takes no files."""

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import shard_file
from engine.checkpoints.names import step_folder, step_folders
from engine.checkpoints.state import RequestState, cache_tensors, shared_tensors
from engine.errors import Paused
from engine.storage.disks import Trouble, mount_of, refuse_unmounted
from engine.storage.waiting import Outage, Waiting
from parallel.ranks import use_device
from parallel.sharding import Shards

KEPT = 2


@dataclass(frozen=True)
class _Part:
    """One rank's part of a checkpoint in the host's memory, which stays as it is until the next one is copied there."""

    tensors: dict[str, Tensor]
    copied: Any
    """The CUDA event after which the tensors are complete; None: at once."""
    plain: Mapping[str, Any]
    rank: int

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class CheckpointWriter:
    """One rank's writer for one request.

    A checkpoint is complete once the files of all ranks are there. The first rank removes what is older than the newest
    two complete ones. One that cannot be written is found out when the next is due: then all ranks wait for the disk.
    """

    def __init__(self, folders: Sequence[Path], must_match: Mapping[str, Any], waiting: Waiting) -> None:
        """
        Args:
            folders: of the request, which all ranks of the replica see; after the first those to turn to where its disk
                takes no files.
            must_match: values that a resuming run must share with this one.
        """
        self.count = 0
        self.bytes = 0
        self.seconds = 0.0  # that the denoise loop waited
        self._folders = folders
        self._mounts = {folder: mount_of(folder) for folder in folders}
        self._ranks = waiting.ranks
        self._must_match = must_match
        self._waiting = waiting
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=use_device, initargs=(self._ranks.device,))
        self._part: _Part | None = None
        self._pending: Future[tuple[int, float]] | None = None
        self._host: dict[str, Tensor] = {}
        self._is_away = False  # the first folder's disk was waited for in vain
        self.is_kept = True  # the newest checkpoint that was finished is on some disk

    def save(self, state: RequestState, shards: Shards, is_last: bool = False) -> None:
        """Write this rank's part in the background. Waits until the one before is written, so that ranks differ by one
        checkpoint at most. Collective over the replica.

        Args:
            is_last: the request is paused after it: nothing waits for a disk, and on return it is written.

        Raises:
            Paused, Cancelled: asked for during a wait for the disk; on all ranks. A pause leaves this checkpoint.
        """
        started = time.perf_counter()
        try:
            self.finish(may_wait=not is_last)
        except Paused:
            self._save(state, shards)
            self.finish(may_wait=False)
            raise
        self._save(state, shards)
        if is_last:
            self.finish(may_wait=False)
        self.seconds += time.perf_counter() - started

    def _save(self, state: RequestState, shards: Shards) -> None:
        tensors = cache_tensors(state)
        plain = self._plain(state, self._ranks.replica_size) | {"tokens": [shards.start, shards.length]}
        if self._ranks.replica_rank == 0:
            shared, values = shared_tensors(state)
            tensors |= shared
            plain |= values
        self._begin(tensors, plain)

    def save_final(self, state: RequestState) -> None:
        """Write the final latents, on the first rank, and wait for it: the decoding after it may run out of memory.
        Nothing is waited for where no folder takes them. Collective over the replica."""
        started = time.perf_counter()
        self.finish(may_wait=False)
        if self._ranks.replica_rank == 0:
            tensors, values = shared_tensors(state)
            self._begin(tensors, self._plain(state, ranks=1) | {"tokens": [0, 0]} | values)
        else:
            self._part = self._pending = None
        self.finish(may_wait=False)
        self.seconds += time.perf_counter() - started

    def finish(self, may_wait: bool = True) -> None:
        """Return once the checkpoint that was begun is written, to the first folder that takes it, or cannot be.
        Collective over the replica.

        Args:
            may_wait: wait for the disk of the first folder, if that has not been in vain before.

        Raises:
            Paused, Cancelled: asked for during that wait; on all ranks.
        """
        outage, self.is_kept = Outage(self._waiting, "denoise"), True
        waits = may_wait and not self._is_away
        while True:
            own, trouble = self._await_written()
            if trouble is None:
                self._is_away = False
                outage.end()
                return self._count_written()
            needed = self._part.nbytes if self._part else 0
            if not waits or not outage.await_next_try(own, needed):
                break
            if own is not None:
                self._begin_again(self._folders[0])
        self._is_away = may_wait
        note = self._waiting.progress.note
        for folder in self._folders[1:]:
            self._begin_again(folder)
            if self._await_written()[1] is None:
                note(f"{trouble}: the checkpoint after {self._steps_done()} steps is kept in {folder}")
                return self._count_written()
        note(f"{trouble}: the checkpoint after {self._steps_done()} steps could not be written, and the run goes on")
        self._pending, self.is_kept = None, False

    def keep_elsewhere(self) -> Path | None:
        """Write the newest checkpoint to another folder than the first as well, for good. Collective over the replica.

        Returns:
            That folder, or the first one, if the checkpoint is there alone; None if it is nowhere.
        """
        for folder in [*self._folders[1:], self._folders[0]]:
            self._begin_again(folder)
            if self._await_written()[1] is None:
                self.is_kept = True
                return folder
        return None

    def close(self) -> None:
        """Wait for what is being written, and end the thread. Not collective: other ranks may have failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                self._count(*pending.result())
            except OSError as error:
                self._waiting.progress.note(f"a checkpoint could not be written: {error}")
        self._thread.shutdown(wait=False)  # what a dead disk holds up would never end

    def _await_written(self) -> tuple[Trouble | None, Trouble | None]:
        """Wait until all ranks have tried. Returns this rank's trouble, and that of the first rank with any."""
        self._waiting.until_done(self._pending, self._folders[0])
        error = self._pending.exception() if self._pending else None
        if error is not None and not isinstance(error, OSError):
            raise error
        own = Trouble.of(error, self._folders[0]) if error else None
        return own, self._waiting.shared(own)

    def _count(self, size: int, seconds: float) -> None:
        self.bytes = max(self.bytes, size)
        self.count += 1
        self._waiting.progress.saved(seconds)

    def _count_written(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._count(*pending.result())

    def _begin(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        self._part = _Part(*self._copy(tensors), plain, self._ranks.replica_rank)
        self._begin_again(self._folders[0])

    def _begin_again(self, folder: Path) -> None:
        self._pending = self._thread.submit(_write, folder, self._mounts[folder], self._part) if self._part else None

    def _steps_done(self) -> int:
        return int(self._part.plain["steps_done"]) if self._part else 0

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


def _write(folder: Path, mount: Path, part: _Part) -> tuple[int, float]:
    """Bytes written, and seconds that it took."""
    started = time.perf_counter()
    refuse_unmounted(mount)
    if part.copied is not None:
        part.copied.synchronize()
    step = step_folder(folder, part.plain["steps_done"])
    size = shard_file.write(step, part.rank, part.plain["ranks"], part.tensors, part.plain)
    refuse_unmounted(mount)
    if part.rank == 0:
        remove_old(folder)
    return size, time.perf_counter() - started


def remove_old(folder: Path) -> None:
    """Remove all but the newest two complete checkpoints, and newer ones that are being written."""
    complete = [step for step in step_folders(folder) if shard_file.find(step)]
    for step in step_folders(folder):
        if len(complete) >= KEPT and step < complete[KEPT - 1]:
            shutil.rmtree(step, ignore_errors=True)
