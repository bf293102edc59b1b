"""One rank of a gang that does any collective work, in a Ray actor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import ray

from engine.progress import Progress
from engine.request import Task
from launch.gang.mirror import Listing, Mirror, Stamp
from launch.gang.rank_actor import STATUS_GROUP, Outcome, RankActor, change_folder, with_longer_timeouts
from launch.jobs.checked import check_work
from launch.jobs.config import JobConfig
from launch.jobs.elsewhere import GangWork

FILES_GROUP = "files"
_SHARED = "give their names in full, in a folder that all nodes share"

Job = TypeVar("Job", bound=GangWork)
Work = Callable[[Job, Progress, int], Any]
"""Takes a job, the progress to tell and the rank; collective over the ranks. It is a function of a module, since it
travels by its name."""


@dataclass(frozen=True)
class WorkOutcome(Outcome):
    """Of ``work``."""

    result: Any = None


class Worker(RankActor):
    """Called in the order describe, become_rank, open_mirror where a node other than the driver's takes part, and work;
    listing, take and read at any time in between."""

    GROUPS: ClassVar[Sequence[str]] = (STATUS_GROUP, FILES_GROUP)

    def __init__(self) -> None:
        super().__init__()
        self._mirror: Mirror | None = None

    def open_mirror(self, needed: bool) -> Outcome:
        """Have this rank write its files into a folder of its own, from which the driver fetches them.

        Args:
            needed: its node is not the driver's.
        """
        self._recorder.moved()
        try:
            self._mirror = Mirror() if needed else None
            return Outcome()
        except Exception as error:
            return self._failed(error)

    def work(self, port: int, job: Job, work: Work[Job]) -> Outcome:
        """Check the job on this node, and do this rank's part of the work. The engine that it loads joins the other
        ranks at the store's port."""
        self._recorder.moved()
        try:
            self._join_at(port)
            change_folder(self._assignment.folder, job.inputs, _SHARED)
            here = job.settled(lambda config, tasks: self._settle(job, config, tasks))
            if self._mirror is not None:
                here = here.writing_to(self._mirror.folder / job.output.name)
            return WorkOutcome(result=work(here, self._recorder, self._assignment.rank))
        except Exception as error:
            return self._failed(error)

    def _settle(self, job: GangWork, config: JobConfig, tasks: Sequence[Task]) -> JobConfig:
        """
        Raises:
            InvalidInput: the job cannot work here.
        """
        settled = config.model_copy(update={"model": job.given.model})
        return with_longer_timeouts(check_work(settled, tasks, self._place, announce=self._recorder.note).config)

    @ray.method(concurrency_group=FILES_GROUP)
    def listing(self) -> Listing:
        """The files in the mirror."""
        return self._files.listing()

    @ray.method(concurrency_group=FILES_GROUP)
    def take(self, name: str, offset: int, piece: bytes) -> None:
        """Write a piece of a file into the mirror."""
        self._files.take(name, offset, piece)

    @ray.method(concurrency_group=FILES_GROUP)
    def read(self, name: str, stamp: Stamp, offset: int) -> bytes | None:
        """A piece of a file of the mirror; None if it has been replaced."""
        return self._files.read(name, stamp, offset)

    @ray.method(concurrency_group=FILES_GROUP)
    def close_mirror(self) -> None:
        """Remove the mirror."""
        self._files.remove()

    @property
    def _files(self) -> Mirror:
        assert self._mirror is not None, "open_mirror comes first"
        return self._mirror
