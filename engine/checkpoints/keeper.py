"""The checkpoints of one request on one rank: what it finds, what it leaves, and how it cleans up."""

import shutil
from collections.abc import Callable
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
from engine.errors import RankFailure
from engine.request import GenerationRequest
from parallel.broadcast import objects_of_all
from parallel.ranks import Ranks
from parallel.sharding import Shards


class RequestCheckpoints:
    """Every rank of the replica has one, and calls the same methods in the same order."""

    def __init__(
        self, folder: Path, config: Config, request: GenerationRequest, ranks: Ranks, note: Callable[[str], None]
    ) -> None:
        """
        Args:
            folder: of this request alone; need not exist.
            note: told in one line why a checkpoint could not be written.
        """
        self.folder = folder
        self._every = config.checkpoint.every
        self._num_steps = request.sampling.steps
        self._ranks = ranks
        self._must_match = must_match(config, request) | {"device kind": ranks.device.type}
        self._writer = CheckpointWriter(folder, ranks, self._must_match, note)

    def load(self, shards: Shards, own: Callable[[Lane], bool]) -> RequestState | None:
        """The newest state that is whole, cut for the ranks of now; None if there is none. Collective.

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
        """Whether the state after that many steps is to be saved; the last one is, by :meth:`save_final`."""
        return self._every > 0 and steps_done % self._every == 0 and steps_done < self._num_steps

    def save(self, state: RequestState, shards: Shards) -> None:
        """Save this rank's part of the state after a step, in the background."""
        self._writer.save(state, shards)

    def save_paused(self, state: RequestState, shards: Shards) -> None:
        """Save this rank's part of the state in which the request is left, unless that has just been done."""
        if not self.is_due(state.steps_done):
            self._writer.save(state, shards)

    def save_final(self, state: RequestState) -> None:
        """Save the final latents, and wait until they are on the disk."""
        self._writer.save_final(state)

    @property
    def usage(self) -> dict[str, Any]:
        """How many checkpoints this rank has written, bytes of the largest, and seconds that denoising waited."""
        return {"count": self._writer.count, "bytes": self._writer.bytes, "seconds": self._writer.seconds}

    def close(self) -> None:
        """Wait for what is being written; to be called however the request ends."""
        self._writer.close()

    def discard(self) -> None:
        """Leave nothing, of a request that is not wanted any more. Collective: a rank may still be writing."""
        self._writer.close()
        objects_of_all(None, self._ranks)
        if self._ranks.replica_rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self) -> None:
        """Free the disk, once the files that the request was for are there."""
        if self._ranks.replica_rank == 0:
            for step in step_folders(self.folder):
                shutil.rmtree(step, ignore_errors=True)
