"""Runs one job of the queue on a loaded gang, until it has ended or goes back into the queue."""

from __future__ import annotations

import time
from enum import Enum

from engine.errors import InvalidInput, sentence
from launch.cluster.endings import EndingWriter
from launch.cluster.parts import ServerParts
from launch.cluster.registration import HeldJob
from launch.cluster.setup import FolderInUse, prepare_for
from launch.cluster.starting import RankStarter
from launch.gang.gang import JobResult
from launch.gang.monitor import GangFailure
from launch.gang.restarts import DYING_SECONDS, JobFailure, RestartBudget, attempt_again
from launch.gang.watch import RayLost
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.leftovers import describe_leftovers
from launch.process.failures import Failure
from launch.process.machine_faults import is_machines_fault
from launch.queue.records import JobRecord, State, Wish
from launch.queue.store import LeaseLost
from launch.queue.trouble import QueueUnusable
from parallel.control import Control

_SHORTEST_WAIT = 1 / 6  # of a lease, for which the queue may be away before a job is paused, however slow its steps are
_CONTROLS = {Wish.RUN: Control.RUN, Wish.PAUSE: Control.PAUSE, Wish.CANCEL: Control.CANCEL}


class Ran(Enum):
    """What a job says of the machine that ran it: ``BADLY`` if it failed, and the job went back into the queue."""

    WELL = "well"
    BADLY = "badly"
    UNKNOWN = "unknown"


class JobRefused(Exception):
    """A rank cannot do the job. None has begun, so the gang can take another job."""

    def __init__(self, message: str, machines: bool) -> None:
        """
        Args:
            machines: the fault is the machine's.
        """
        super().__init__(message)
        self.machines = machines


class JobRunner:
    """Runs jobs on one gang, one after the other."""

    def __init__(self, parts: ServerParts, starter: RankStarter) -> None:
        self._parts = parts
        self._starter = starter
        self._endings = EndingWriter(parts.queue, parts.outage, parts.stop)
        self.newest_fault = ""
        """Of the machine, by which a job was given back."""

    def run(self, record: JobRecord) -> Ran:
        """Run a job that was claimed, with restarts of the ranks if they are lost.

        Returns:
            What that says of the machine.

        Raises:
            LeaseLost: the job belongs to another attempt by now. No rank works at it any more.
            QueueUnusable: this process is asked to end, and the queue is away.
            RayLost: Ray is gone.
            GangFailure, InvalidInput, Interrupted: as of :meth:`launch.cluster.starting.RankStarter.start_again`.
        """
        self._parts.log(f"job {record.id}, attempt {record.attempts}: {record.video}")
        self._parts.progress.begin_job(record.progress)
        try:
            budget = RestartBudget.of(record.parsed_config, record.restarts, record.preemptions)
        except InvalidInput as error:  # a job of another version of Lockstep, which no gang can run
            self._finish(record, State.FAILED, sentence(error))
            return Ran.UNKNOWN
        try:
            return attempt_again(lambda: self._attempt(record), budget, lambda error: self._start_again(record, error))
        except RayLost as error:  # this process ends, and the job goes back into the queue
            self._count_loss(record, budget, error)
            raise
        except FolderInUse as error:
            self._parts.log(f"job {record.id}: {error}")
            self._release(record)
            return Ran.UNKNOWN
        except JobRefused as error:
            return self._fail(record, str(error), error.machines)
        except JobFailure as error:
            self._parts.log(f"job {record.id}: {error.failure}: all ranks are started again")
            ran = self._fail(record, str(error.failure), error.failure.machines)
            self._starter.start_again()
            return ran

    def _fail(self, record: JobRecord, reason: str, machines: bool) -> Ran:
        """End a job that cannot be made, or give it back if that is the machine's fault."""
        if not machines:
            self._finish(record, State.FAILED, reason)
            return Ran.UNKNOWN
        name, self.newest_fault = self._parts.registration.name, reason
        kept = self._leftovers(record)

        def change() -> None:
            self._parts.queue.give_back(record.id, record.attempts, name, reason, kept)

        self._endings.write(record, State.QUEUED, change)
        self._parts.log(f"job {record.id} is given back, for the fault is this machine's: {reason}")
        return Ran.BADLY

    def _leftovers(self, record: JobRecord) -> str | None:
        return describe_leftovers(record.options, int(record.config["sampling"]["steps"]))

    def _attempt(self, record: JobRecord) -> Ran:
        """
        Raises:
            FolderInUse: another process is still writing to the job's folder.
            JobRefused: the job cannot work on this gang.
            GangFailure: a rank failed or was lost.
            LeaseLost: as of :meth:`run`.
        """
        try:
            job = prepare_for(record, self._parts.loaded.job, self._parts.loaded.node_ids, DYING_SECONDS)
        except InvalidInput as error:
            raise JobRefused(sentence(error), is_machines_fault(error)) from None
        try:
            self._parts.loaded.gang.accept(job)
        except GangFailure as error:
            if error.lost:
                raise
            raise JobRefused(str(error.failure), error.failure.machines) from None
        self._is_hurried = False
        try:
            with self._parts.registration.holding(record, lambda: self._parts.progress.job) as held:
                result = self._parts.loaded.gang.generate(lambda: self._look(held))
        except LeaseLost:
            self._parts.log(f"job {record.id}: all ranks are ended, since another gang may have it")
            self._starter.start_again()
            raise
        self._settle(record, job, result)
        return Ran.WELL

    def _count_loss(self, record: JobRecord, budget: RestartBudget, error: RayLost) -> None:
        """Fail a job on which Ray was lost too often: it may be the cause."""
        failure = Failure(0, self._parts.progress.job.phase, str(error), time.time_ns())
        if budget.take(GangFailure(failure, lost=True)):
            self._count_restart(record)
        else:
            self._finish(record, State.FAILED, str(failure))

    def _count_restart(self, record: JobRecord, preempted: bool = False) -> None:
        try:
            self._parts.queue.count_restart(record.id, record.attempts, preempted)
        except QueueUnusable as error:
            self._parts.outage.failed(error)  # the count is not worth waiting for

    def _start_again(self, record: JobRecord, error: GangFailure) -> None:
        self._parts.log(f"job {record.id}: {error.failure}: all ranks are started again")
        self._parts.metrics.restarted(error.preempted)
        self._count_restart(record, error.preempted)
        self._starter.start_again()

    def _look(self, held: HeldJob) -> Control:
        """What is asked of the running job. Never waits for the queue.

        Raises:
            LeaseLost: the job belongs to another gang by now.
        """
        self._parts.registration.check()
        if held.lost is not None:
            raise held.lost
        self._parts.metrics.refresh(self._parts.registration.waiting)
        asked = _CONTROLS[held.wish]
        if self._parts.stop.asked or self._has_to_hurry(held):
            asked = max(asked, Control.PAUSE)
        return asked

    def _has_to_hurry(self, held: HeldJob) -> bool:
        """Whether the lease ends so soon that the job has to be paused now for its checkpoint to be written in time.

        Afterwards it is decided: ranks that were asked to pause cannot be asked to go on.
        """
        left = self._parts.registration.seconds_left
        needed = min(
            self._parts.progress.seconds_to_pause, self._parts.registration.lease_seconds * (1 - _SHORTEST_WAIT)
        )
        if not self._is_hurried and left < needed:
            self._is_hurried = True
            self._parts.log(
                f"job {held.id} is paused, for its lease ends in {left:.0f} s and the queue cannot be reached"
            )
        return self._is_hurried

    def _settle(self, record: JobRecord, job: Job, result: JobResult) -> None:
        if result.stopped is Control.PAUSE:
            self._parts.log(f"job {record.id} is paused")
            return self._release(record)
        if result.stopped is Control.CANCEL:
            job.clean_up()
            return self._finish(record, State.CANCELLED)
        self._finish(record, State.SUCCEEDED)
        job.clean_up()  # after the queue knows: a gang that is killed in between would leave the job to be made again
        for report in result.reports:
            self._parts.metrics.made(report)

    def _release(self, record: JobRecord) -> None:
        self._endings.write(record, State.QUEUED, lambda: self._parts.queue.release(record.id, record.attempts))

    def _finish(self, record: JobRecord, state: State, error: str | None = None) -> None:
        def change() -> None:
            if state is State.SUCCEEDED:
                self._parts.queue.progress(record.id, record.attempts, self._parts.progress.job)
            self._parts.queue.finish(record.id, record.attempts, state, error, kept)

        kept = self._leftovers(record) if state is State.FAILED else None
        self._endings.write(record, state, change)
        if state is State.FAILED:
            for folder in JobFolder.all_of(record.options):
                folder.remove_unless_begun()
        self._parts.log(f"job {record.id} {state.value}" + (f": {error}" if error else ""))
        if kept:
            self._parts.log(f"job {record.id} has left {kept}: lockstep retry {record.id} goes on from there")
        self._parts.metrics.ended(state)
