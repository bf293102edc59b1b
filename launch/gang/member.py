"""One rank of a gang that makes videos: the same engine as under torchrun, in a Ray actor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import Cancelled, Stopped
from launch.gang.rank_actor import Outcome, RankActor, change_folder, with_longer_timeouts
from launch.jobs.checked import check_work
from launch.jobs.config import JobConfig
from launch.jobs.job import Job
from parallel.control import Control
from parallel.place import Place

if TYPE_CHECKING:
    from engine.engine import Engine

_SHARED = "give --output in full, in a folder that all nodes share"


@dataclass(frozen=True)
class VideosOutcome(Outcome):
    """Of ``generate``."""

    reports: list[dict[str, Any]] | None = None
    """From rank 0."""
    stopped: Control = Control.RUN
    """PAUSE or CANCEL if that ended the job early."""


class Member(RankActor):
    """Called in the order describe, become_rank, load, and then accept and generate for each job."""

    def __init__(self) -> None:
        super().__init__()
        self._engine: Engine | None = None
        self._loaded_for: Job | None = None
        self._job: Job
        self._job_engine: Engine  # the same, with the job's configuration
        self._at_work = ExitStack()

    def load(self, port: int, job: Job) -> Outcome:
        """Join the other ranks at the store's port, and load this rank's weights.

        Args:
            job: the one that the gang is for; one without videos where the gang serves a queue.
        """
        self._recorder.moved()
        try:
            from engine.engine import Engine

            self._join_at(port)
            change_folder(self._assignment.folder, job.paths, _SHARED)
            config = _check_here(job, self._place, self._recorder.note)
            self._engine = Engine.load(with_longer_timeouts(config), self._recorder)
            self._loaded_for = job
            return Outcome()
        except Exception as error:
            return self._failed(error)

    def accept(self, job: Job) -> Outcome:
        """Check the job on this node. No rank begins to work before all have accepted, since none could stop alone."""
        if job == self._loaded_for:
            self._recorder.moved()
        else:
            self._recorder.begin("start")
        try:
            assert self._engine is not None, "load comes first"
            self._job, self._job_engine = job, self._engine
            if job != self._loaded_for:
                config = _check_here(job, self._place, self._recorder.note)
                self._job_engine = self._engine.configured(with_longer_timeouts(config))
            self._at_work.enter_context(job.at_work(self._assignment.rank))
            return Outcome()
        except Exception as error:
            return self._failed(error)

    def generate(self, number: int) -> Outcome:
        """Make the videos of the accepted job; the reports come from rank 0.

        Args:
            number: of the job; what was asked of an earlier job does not count for it.
        """
        self._recorder.moved()
        job = self._job
        try:
            with self._at_work:
                made = self._job_engine.generate_all(job.tasks_left, lambda: self._control_of(number))
                return VideosOutcome(reports=None if made is None else job.all_reports(made))
        except Stopped as stopped:
            return VideosOutcome(stopped=Control.CANCEL if isinstance(stopped, Cancelled) else Control.PAUSE)
        except Exception as error:
            return self._failed(error)

    def release(self) -> Outcome:
        """Give up the accepted job, since another rank cannot do it."""
        self._at_work.close()
        return Outcome()

    def ping(self) -> Outcome:
        """Do nothing, in the thread that works."""
        self._recorder.moved()
        return Outcome()

    def _control_of(self, number: int) -> Control:
        job, control = self._control
        return control if job == number else Control.RUN


def _check_here(job: Job, place: Place, note: Callable[[str], None]) -> JobConfig:
    """The job's configuration with this node's copy of the model, checked against its devices and disks.

    Raises:
        InvalidInput: the job cannot work here.
    """
    settled = job.config.model_copy(update={"model": job.given.model})
    return check_work(settled, job.tasks, place, announce=note).config
