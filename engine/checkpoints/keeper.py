"""The checkpoints of one request on one rank: found, written and removed."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dicache.controller import Lane
from engine.checkpoints import shard_file
from engine.checkpoints.match import differences, must_match
from engine.checkpoints.names import step_folders
from engine.checkpoints.reader import newest_whole, read_state
from engine.checkpoints.state import RequestState
from engine.checkpoints.writer import CheckpointWriter
from engine.config import Config
from engine.errors import Cancelled, RankFailure
from engine.request import GenerationRequest
from engine.storage.files import take_place
from engine.storage.private import make_private_folder
from engine.storage.waiting import Waiting
from parallel.broadcast import object_from_first, objects_of_all
from parallel.sharding import Shards


@contextmanager
def open_checkpoints(
    folders: Sequence[Path], config: Config, request: GenerationRequest, waiting: Waiting
) -> Iterator["RequestCheckpoints | None"]:
    """The checkpoints of a request, for a ``with`` block in which it runs; None without a folder.

    However the block ends, what is being written is finished. If the request is cancelled, the folders are removed.
    Arguments as of :class:`RequestCheckpoints`.
    """
    if not folders:
        yield None
        return
    checkpoints = RequestCheckpoints(folders, config, request, waiting)
    try:
        yield checkpoints
    except Cancelled:
        checkpoints.discard()
        raise
    finally:
        checkpoints.close()


class RequestCheckpoints:
    """The checkpoints of one request. Every rank of the replica has an object, and calls the same methods in order."""

    def __init__(self, folders: Sequence[Path], config: Config, request: GenerationRequest, waiting: Waiting) -> None:
        """
        Args:
            folders: of this request alone; need not exist. After the first those to turn to where its disk takes no
                files.
        """
        self._folders = folders
        self._every = config.checkpoint.every
        self._num_steps = request.sampling.steps
        self._ranks = waiting.ranks
        self._must_match = must_match(config, request) | {"device kind": waiting.ranks.device.type}
        self._final: Path | None = None  # the file of the final latents that an earlier run has left
        self._writer = CheckpointWriter(folders, self._must_match, waiting)

    def load(self, shards: Shards, own: Callable[[Lane], bool]) -> RequestState | None:
        """The newest state that is whole, with this rank's shard of the tokens; None if there is none. Collective.

        Args:
            shards: which tokens each rank holds now; the run that wrote the checkpoint may have had another layout.
            own: whether this rank computes a lane.

        Raises:
            RankFailure: it is of another request, model, method or version.
        """
        files = newest_whole(self._folders, self._ranks)
        if files is None:
            return None
        if changed := differences(shard_file.read_plain(files[0])["must_match"], self._must_match):
            raise RankFailure(
                f"The checkpoint {files[0].parent} cannot be continued, for {changed[0]}: resume it as it was begun, "
                f"or delete {files[0].parents[1]} and start anew."
            )
        state = read_state(files, shards, own, self._ranks.device)
        if state.steps_done == self._num_steps:
            self._final = files[0]
        return state

    def is_due(self, steps_done: int) -> bool:
        """Whether the state after that many steps is saved by :meth:`save`; the last one is by :meth:`save_final`."""
        return self._every > 0 and steps_done % self._every == 0 and steps_done < self._num_steps

    def save(self, state: RequestState, shards: Shards) -> None:
        """Write this rank's part of the state after a step, in the background."""
        self._writer.save(state, shards)

    def save_paused(self, state: RequestState, shards: Shards) -> None:
        """Write this rank's part of the state at a pause, unless :meth:`save` has just begun to, and wait for it."""
        if self.is_due(state.steps_done):
            self._writer.finish(may_wait=False)
        else:
            self._writer.save(state, shards, is_last=True)

    def save_final(self, state: RequestState) -> None:
        """Write the final latents, and wait until they are on the disk; collective over the replica."""
        self._writer.save_final(state)

    @property
    def is_kept(self) -> bool:
        """Whether the newest checkpoint that was to be written is on some disk."""
        return self._writer.is_kept

    def keep_elsewhere(self) -> Path | None:
        """Keep the final latents on another disk than that of the first folder; collective over the replica.

        Returns:
            The folder that holds them now, if any does.
        """
        if self._final is None:
            return self._writer.keep_elsewhere()
        kept = self._copy_final(self._final) if self._ranks.replica_rank == 0 else None
        found: Path | None = object_from_first(kept, self._ranks)
        return found

    def _copy_final(self, file: Path) -> Path:
        step, last = file.parent, self._folders[-1]
        if step.parent != last:
            with suppress(OSError):
                make_private_folder(last / step.name)
                copy = last / step.name / f".{file.name}"
                shutil.copyfile(file, copy)
                take_place(copy, copy.with_name(file.name))
                return last
        return step.parent

    @property
    def usage(self) -> dict[str, Any]:
        """For the report: checkpoints written by this rank, bytes of the largest, seconds that denoising waited."""
        return {"count": self._writer.count, "bytes": self._writer.bytes, "seconds": self._writer.seconds}

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.close()

    def discard(self) -> None:
        """Remove the folder of a cancelled request. Collective, since other ranks may still be writing."""
        self._writer.close()
        objects_of_all(None, self._ranks)
        if self._ranks.replica_rank == 0:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the checkpoints, once the request's output files are written."""
        if self._ranks.replica_rank != 0:
            return
        for folder in self._folders:
            for step in step_folders(folder):
                shutil.rmtree(step, ignore_errors=True)
        for folder in self._folders[1:]:
            with suppress(OSError):  # there is none, or it holds what is not ours
                folder.rmdir()
