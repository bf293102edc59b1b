"""One rank of a gang as a Ray actor: the same engine as under torchrun, and answers to the driver meanwhile."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from engine.errors import Cancelled, InvalidInput, Stopped
from engine.execution.imports import import_ahead
from launch.gang.assignment import ActorInfo, RankAssignment
from launch.gang.recorder import Recorder, Status
from launch.jobs.checked import check_work
from launch.jobs.config import JobConfig
from launch.jobs.job import Job
from launch.process.failures import Failure, describe
from launch.process.quiet import quiet_libraries
from launch.process.threads import spin_briefly
from parallel.control import Control
from parallel.place import Place

if TYPE_CHECKING:
    from torch.distributed import TCPStore

    from engine.engine import Engine

STATUS_GROUP = "status"


@dataclass(frozen=True)
class Outcome:
    """The result of a call of a rank. An error is described in it, since not every exception can be pickled."""

    failure: Failure | None = None
    reports: list[dict[str, Any]] | None = None
    """From rank 0's ``generate``."""
    stopped: Control = Control.RUN
    """PAUSE or CANCEL if that ended the job early."""
    port: int | None = None
    """Of the store, from rank 0's ``become_rank``."""


class Member:
    """Called in the order describe, become_rank, load, and then accept and generate for each job; status, stack and
    leave at any time.

    All but those three run in one thread, since torch keeps the current CUDA device for each thread.
    """

    def __init__(self) -> None:
        self._assignment: RankAssignment
        self._recorder = Recorder()
        self._store: TCPStore | None = None
        self._engine: Engine | None = None
        self._loaded_for: Job | None = None
        self._job: Job
        self._job_engine: Engine  # the same, with the job's configuration
        self._at_work = ExitStack()
        self._control = 0, Control.RUN  # number of the job that it is meant for, and what is asked of it
        self._worker = 0  # id of the thread that works

    def describe(self) -> ActorInfo:
        """Where this actor is."""
        context = ray.get_runtime_context()
        gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return ActorInfo(context.get_node_id(), ray.util.get_node_ip_address(), gpus, cores)

    def become_rank(self, assignment: RankAssignment, carried: Mapping[str, str], address: str) -> Outcome:
        """Set up the environment of a rank, and import what takes seconds. Rank 0 opens the store for the rendezvous.

        Args:
            carried: variables of the driver.
            address: of the store, on rank 0's node.
        """
        self._assignment = assignment
        self._worker = threading.get_ident()
        self._recorder.moved()
        try:
            assignment.set_environment(os.environ, carried, address)
            quiet_libraries()
            spin_briefly()
            import_ahead("engine.engine")  # all ranks at the same time, and after the environment, which torch reads

            if assignment.rank > 0:
                return Outcome()
            from torch.distributed import TCPStore

            self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
            return Outcome(port=self._store.port)
        except Exception as error:
            return Outcome(describe(error, assignment.rank, self._recorder.phase))

    def load(self, port: int, job: Job) -> Outcome:
        """Join the other ranks at the store's port, and load this rank's weights.

        Args:
            job: the one that the gang is for; one without videos where the gang serves a queue.
        """
        self._recorder.moved()
        try:
            from engine.engine import Engine

            os.environ["MASTER_PORT"] = str(port)
            _change_folder(self._assignment.folder, job)
            config = _check_here(job, self._assignment, self._recorder.note)
            self._engine = Engine.load(_with_longer_timeouts(config), self._recorder)
            self._loaded_for = job
            return Outcome()
        except Exception as error:
            return Outcome(describe(error, self._assignment.rank, self._recorder.phase))

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
                config = _check_here(job, self._assignment, self._recorder.note)
                self._job_engine = self._engine.configured(_with_longer_timeouts(config))
            self._at_work.enter_context(job.at_work(self._assignment.rank))
            return Outcome()
        except Exception as error:
            return Outcome(describe(error, self._assignment.rank, self._recorder.phase))

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
                return Outcome(reports=None if made is None else job.all_reports(made))
        except Stopped as stopped:
            return Outcome(stopped=Control.CANCEL if isinstance(stopped, Cancelled) else Control.PAUSE)
        except Exception as error:
            return Outcome(describe(error, self._assignment.rank, self._recorder.phase))

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

    @ray.method(concurrency_group=STATUS_GROUP)
    def status(self, seen: int, number: int, control: Control) -> Status:
        """The phase of this rank and its newest events, also while it works.

        Args:
            seen: events that the driver has already had.
            number, control: of a job, and what is asked of it from now on.
        """
        self._control = number, control
        return self._recorder.status(seen)

    @ray.method(concurrency_group=STATUS_GROUP)
    def leave(self) -> None:
        """End this process at once, since Ray, which would do so, is gone."""
        os._exit(1)

    @ray.method(concurrency_group=STATUS_GROUP)
    def stack(self) -> list[str]:
        """The stack of the working thread: file, line and function of each frame, outermost first."""
        frame = sys._current_frames().get(self._worker)  # noqa: SLF001  (documented, despite its name)
        return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]


def _change_folder(folder: str, job: Job) -> None:
    try:
        os.chdir(folder)
    except OSError:
        if any(not path.is_absolute() for path in job.paths):
            raise InvalidInput(
                f"The folder {folder}, from which output files are named, does not exist on every node: give "
                "--output in full, in a folder that all nodes share."
            ) from None


def _check_here(job: Job, assignment: RankAssignment, note: Callable[[str], None]) -> JobConfig:
    """The job's configuration with this node's copy of the model, checked against its devices and disks.

    Raises:
        InvalidInput: the job cannot work here.
    """
    settled = job.config.model_copy(update={"model": job.given.model})
    nodes = assignment.ranks // assignment.ranks_per_node
    place = Place(assignment.ranks, assignment.rank, assignment.ranks_per_node, nodes)
    return check_work(settled, job.tasks, place, announce=note).config


def _with_longer_timeouts(config: JobConfig) -> JobConfig:
    """With twice the timeouts for collectives: the driver sees all ranks, so it should find one that hangs first."""
    runtime = config.runtime
    limits = {name: 2 * getattr(runtime, name) for name in ("load_timeout_seconds", "step_timeout_seconds")}
    return config.model_copy(update={"runtime": runtime.model_copy(update=limits)})
