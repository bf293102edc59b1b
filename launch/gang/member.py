"""One rank of a gang, in an actor: the engine that torchrun runs as well, and answers to the driver beside it."""

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
from launch.gang.assignment import Resident, Seat
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
    """What a rank's work came to; an exception of torch might not survive the way to the driver."""

    failure: Failure | None = None
    reports: list[dict[str, Any]] | None = None  # of generate, on rank 0
    stopped: Control = Control.RUN  # the word that ended the job before its time
    port: int | None = None  # of the store, on rank 0


class Member:
    """Called in the order describe, sit, load, and then take and generate for each job; status and stack at any time.

    The methods that work share one thread, for torch keeps the current CUDA device by thread.
    """

    def __init__(self) -> None:
        self._seat: Seat
        self._recorder = Recorder()
        self._store: TCPStore | None = None
        self._engine: Engine | None = None  # with the model that was loaded
        self._loaded_for: Job | None = None
        self._job: Job
        self._job_engine: Engine  # the same, with the job's configuration
        self._at_work = ExitStack()
        self._wish = 0, Control.RUN  # of which job, and what is wanted of it
        self._worker = 0

    def describe(self) -> Resident:
        """Where this actor is."""
        context = ray.get_runtime_context()
        gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Resident(context.get_node_id(), ray.util.get_node_ip_address(), gpus, cores)

    def sit(self, seat: Seat, carried: Mapping[str, str], address: str) -> Outcome:
        """Become a rank, and import what takes seconds. Rank 0 opens the store at which the ranks meet, and keeps it.

        Args:
            carried: variables of the driver.
            address: of the store, on rank 0's node.
        """
        self._seat = seat
        self._worker = threading.get_ident()
        self._recorder.moved()
        try:
            seat.enter(os.environ, carried, address)
            quiet_libraries()
            spin_briefly()
            import_ahead("engine.engine")  # all ranks at the same time, and only now that the environment is right

            if seat.rank > 0:
                return Outcome()
            from torch.distributed import TCPStore

            self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
            return Outcome(port=self._store.port)
        except Exception as error:
            return Outcome(describe(error, seat.rank, self._recorder.phase))

    def load(self, port: int, job: Job) -> Outcome:
        """Join the other ranks at the store's port, and load this rank's weights.

        Args:
            job: the one that the gang is for; where it shall take many, one without videos.
        """
        self._recorder.moved()
        try:
            from engine.engine import Engine

            os.environ["MASTER_PORT"] = str(port)
            _go_to(self._seat.folder, job)
            config = _check_here(job, self._seat, self._recorder.note)
            self._engine = Engine.load(_patient(config), self._recorder)
            self._loaded_for = job
            return Outcome()
        except Exception as error:
            return Outcome(describe(error, self._seat.rank, self._recorder.phase))

    def take(self, job: Job) -> Outcome:
        """Whether this rank can do the job. No rank begins before all have said so, for none could end alone."""
        if job == self._loaded_for:
            self._recorder.moved()
        else:
            self._recorder.begin("start")
        try:
            assert self._engine is not None, "load comes first"
            self._job, self._job_engine = job, self._engine
            if job != self._loaded_for:
                config = _check_here(job, self._seat, self._recorder.note)
                self._job_engine = self._engine.configured(_patient(config))
            self._at_work.enter_context(job.at_work(self._seat.rank))
            return Outcome()
        except Exception as error:
            return Outcome(describe(error, self._seat.rank, self._recorder.phase))

    def generate(self, number: int) -> Outcome:
        """Make the videos of the job that was taken; the reports come from rank 0.

        Args:
            number: of the job, by which its wishes are told from those for the one before.
        """
        self._recorder.moved()
        job = self._job
        try:
            with self._at_work:
                made = self._job_engine.generate_all(job.tasks_left, lambda: self._wish_for(number))
                return Outcome(reports=None if made is None else job.all_reports(made))
        except Stopped as stopped:
            return Outcome(stopped=Control.CANCEL if isinstance(stopped, Cancelled) else Control.PAUSE)
        except Exception as error:
            return Outcome(describe(error, self._seat.rank, self._recorder.phase))

    def let_go(self) -> Outcome:
        """Of a job that was taken, for another rank could not do it."""
        self._at_work.close()
        return Outcome()

    def stand_by(self) -> Outcome:
        """Do nothing, in the thread that works."""
        self._recorder.moved()
        return Outcome()

    def _wish_for(self, number: int) -> Control:
        job, wish = self._wish
        return wish if job == number else Control.RUN

    @ray.method(concurrency_group=STATUS_GROUP)
    def status(self, seen: int, number: int, wish: Control) -> Status:
        """Where this rank is, also while it works.

        Args:
            number, wish: of a job, and what is wanted of it from now on.
        """
        self._wish = number, wish
        return self._recorder.status(seen)

    @ray.method(concurrency_group=STATUS_GROUP)
    def stack(self) -> list[str]:
        """What the working thread is doing: file, line and function of each frame, outermost first."""
        frame = sys._current_frames().get(self._worker)  # noqa: SLF001  (documented, despite its name)
        return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]


def _go_to(folder: str, job: Job) -> None:
    try:
        os.chdir(folder)
    except OSError:
        if any(not path.is_absolute() for path in job.paths):
            raise InvalidInput(
                f"The folder {folder}, from which output files are named, does not exist on every node: give "
                "--output in full, in a folder that all nodes share."
            ) from None


def _check_here(job: Job, seat: Seat, note: Callable[[str], None]) -> JobConfig:
    """The job's configuration with this node's copy of the model, checked against its devices and disks.

    Raises:
        InvalidInput: it cannot.
    """
    settled = job.config.model_copy(update={"model": job.given.model})
    place = Place(seat.ranks, seat.rank, seat.part, seat.ranks // seat.part)
    return check_work(settled, job.tasks, place, announce=note).config


def _patient(config: JobConfig) -> JobConfig:
    """Twice the limits for collectives: the driver, which sees all ranks, should be first to find one that hangs."""
    runtime = config.runtime
    limits = {name: 2 * getattr(runtime, name) for name in ("load_timeout_seconds", "step_timeout_seconds")}
    return config.model_copy(update={"runtime": runtime.model_copy(update=limits)})
