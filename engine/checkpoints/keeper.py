"""The checkpoints of one request on one rank: found, written and removed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.broadcast import objects_of_all
from parallel.ranks import Ranks
from parallel.sharding import Shards


@contextmanager
def open_checkpoints(
    folder: Path | None, config: Config, request: GenerationRequest, ranks: Ranks, progress: Progress
) -> Iterator["RequestCheckpoints | None"]:
    """The checkpoints of a request, for a ``with`` block in which it runs; None without a folder.

    However the block ends, what is being written is finished. If the request is cancelled, the folder is removed.
    Arguments as of :class:`RequestCheckpoints`.
    """
    if folder is None:
        yield None
        return
    checkpoints = RequestCheckpoints(folder, config, request, ranks, progress)
    try:
        yield checkpoints
    except Cancelled:
        checkpoints.discard()
        raise
    finally:
        checkpoints.close()


class RequestCheckpoints:
    """The checkpoints of one request. Every rank of the replica has an object, and calls the same methods in order."""

    def __init__(
        self, folder: Path, config: Config, request: GenerationRequest, ranks: Ranks, progress: Progress
    ) -> None:
        """
        Args:
            folder: of this request alone; need not exist.
            progress: told of each checkpoint that was written, and in a note of each that could not be.
        """
        self.folder = folder
        self._every = config.checkpoint.every
        self._num_steps = request.sampling.steps
        self._ranks = ranks
        self._must_match = must_match(config, request) | {"device kind": ranks.device.type}
        self._writer = CheckpointWriter(folder, ranks, self._must_match, progress)

    def load(self, shards: Shards, own: Callable[[Lane], bool]) -> RequestState | None:
        """The newest state that is whole, with this rank's shard of the tokens; None if there is none. Collective.

        Args:
            shards: which tokens each rank holds now; the run that wrote the checkpoint may have had another layout.
            own: whether this rank computes a lane.

        Raises:
            RankFailure: it is of another request, model, method or version.
        """
        files = newest_whole(self.folder, self._ranks)
        if files is None:
            return None
        if changed := differences(shard_file.read_plain(files[0])["must_match"], self._must_match):
            raise RankFailure(
                f"The checkpoint {files[0].parent} cannot be continued, for {changed[0]}: resume it as it was begun, "
                f"or delete {self.folder} and start anew."
            )
        return read_state(files, shards, own, self._ranks.device)

    def is_due(self, steps_done: int) -> bool:
        """Whether the state after that many steps is saved by :meth:`save`; the last one is by :meth:`save_final`."""
        return self._every > 0 and steps_done % self._every == 0 and steps_done < self._num_steps

    def save(self, state: RequestState, shards: Shards) -> None:
        """Write this rank's part of the state after a step, in the background."""
        self._writer.save(state, shards)

    def save_paused(self, state: RequestState, shards: Shards) -> None:
        """Write this rank's part of the state at a pause, unless :meth:`save` has just written it."""
        if not self.is_due(state.steps_done):
            self._writer.save(state, shards)

    def save_final(self, state: RequestState) -> None:
        """Write the final latents, and wait until they are on the disk."""
        self._writer.save_final(state)

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
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the checkpoints, once the request's output files are written."""
        if self._ranks.replica_rank == 0:
            for step in step_folders(self.folder):
                shutil.rmtree(step, ignore_errors=True)
