"""The server of a loaded gang: it takes one job of the queue after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from engine.errors import InvalidInput, sentence
from launch.cluster.loaded import LoadedGang
from launch.cluster.metrics import Metrics
from launch.cluster.progress import GangProgress
from launch.cluster.registration import GangRegistration
from launch.cluster.setup import FolderInUse, fits, prepare_for
from launch.cluster.stopping import StopRequest
from launch.gang.gang import JobResult
from launch.gang.monitor import GangFailure
from launch.gang.restarts import DYING_SECONDS, JobFailure, RestartBudget, attempt_again
from launch.gang.watch import RayLost
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.process.failures import Failure
from launch.queue.records import GangState, JobProgress, JobRecord, State, Wish
from launch.queue.store import LeaseLost, Queue
from parallel.control import Control

_IDLE_SECONDS = 0.5  # between two looks into the queue
_TELL_SECONDS = 0.5  # between two records of a job's progress
_PING_SECONDS = 5.0  # between two checks that all ranks answer, while there is no job
_MEASURE_SECONDS = 5.0  # between two counts of the jobs that wait
_STARTS = 5  # that may fail in a row before the server gives up
_CONTROLS = {Wish.RUN: Control.RUN, Wish.PAUSE: Control.PAUSE, Wish.CANCEL: Control.CANCEL}


class JobRefused(Exception):
    """A rank cannot do the job. None has begun, so the gang can take another job."""


class Server:
    """Serves the queue with one gang."""

    def __init__(
        self,
        queue: Queue,
        registration: GangRegistration,
        loaded: LoadedGang,
        progress: GangProgress,
        stop: StopRequest,
        metrics: Metrics,
        log: Callable[[str], None],
    ) -> None:
        """
        Args:
            loaded: started.
            progress: told what the gang's rank 0 reports.
            log: takes one line for each event.
        """
        self._queue = queue
        self._registration = registration
        self._loaded = loaded
        self._progress = progress
        self._stop = stop
        self._metrics = metrics
        self._log = log
        self._pinged_at = self._measured_at = 0.0
        self._passed_over: set[int] = set()  # jobs of other models
        self._told: tuple[float, JobProgress | None] = (0.0, None)

    def serve(self) -> None:
        """Take jobs until this process is asked to end. A running job is paused then, and goes back into the queue
        unless the user had paused it.

        Raises:
            Interrupted: the process was asked to end while the ranks were being started again.
            RayLost: Ray is gone.
            GangFailure, InvalidInput: the ranks cannot be started again. A job that the gang still has goes back into
                the queue when the gang is unregistered.
        """
        while not self._stop.asked:
            try:
                self._registration.check()
                record = self._claim()
                if record is not None:
                    self._registration.set_state(GangState.BUSY)
                    self._run(record)
                    self._registration.set_state(GangState.READY)
            except LeaseLost as error:
                self._log(f"{error}: all ranks are ended, since another gang may have the job")
                self._restart()
                self._registration.register_again()
            except GangFailure as error:  # while there was no job
                self._log(str(error.failure))
                self._restart()

    def _claim(self) -> JobRecord | None:
        """The next job; None after a moment if there is none."""
        for lost in self._queue.requeue_lost():
            self._log(f"job {lost.id} was lost with its gang, and is {lost.described_state}")
            if lost.state is State.CANCELLED:
                JobFolder.beside(lost.video).remove()
        record = self._queue.claim(
            self._registration.name, lambda waiting: fits(waiting, self._loaded.job), self._passed_over
        )
        if record is None:
            if time.monotonic() - self._pinged_at > _PING_SECONDS:
                self._pinged_at = time.monotonic()
                self._loaded.gang.ping()
            self._measure()
            time.sleep(_IDLE_SECONDS)
        return record

    def _run(self, record: JobRecord) -> None:
        """Run one job until it has ended or goes back into the queue, with restarts of the ranks if they are lost."""
        self._log(f"job {record.id}, attempt {record.attempts}: {record.video}")
        self._progress.begin_job(record.progress)
        try:
            budget = RestartBudget.of(record.parsed_config, record.restarts, record.preemptions)
        except InvalidInput as error:  # a job of another version of Lockstep, which no gang can run
            return self._finish(record, State.FAILED, sentence(error))
        try:
            attempt_again(lambda: self._attempt(record), budget, lambda error: self._start_again(record, error))
        except RayLost as error:  # this process ends, and the job goes back into the queue
            self._count_loss(record, budget, error)
            raise
        except FolderInUse as error:
            self._log(f"job {record.id}: {error}")
            self._queue.release(record.id, record.attempts)
        except JobRefused as error:
            self._finish(record, State.FAILED, str(error))
        except JobFailure as error:
            self._log(f"job {record.id}: {error.failure}: all ranks are started again")
            self._finish(record, State.FAILED, str(error.failure))
            self._restart()

    def _attempt(self, record: JobRecord) -> None:
        """
        Raises:
            FolderInUse: another process is still writing to the job's folder.
            JobRefused: the job cannot work on this gang.
            GangFailure: a rank failed or was lost.
        """
        try:
            job = prepare_for(record, self._loaded.job, self._loaded.node_ids, DYING_SECONDS)
        except InvalidInput as error:
            raise JobRefused(sentence(error)) from None
        try:
            self._loaded.gang.accept(job)
        except GangFailure as error:
            if error.lost:
                raise
            raise JobRefused(str(error.failure)) from None
        self._settle(record, job, self._loaded.gang.generate(lambda: self._look(record)))

    def _count_loss(self, record: JobRecord, budget: RestartBudget, error: RayLost) -> None:
        """Fail a job on which Ray was lost too often: it may be the cause."""
        failure = Failure(0, self._progress.job.phase, str(error), time.time_ns())
        if budget.take(GangFailure(failure, lost=True)):
            self._queue.count_restart(record.id, record.attempts, preempted=False)
        else:
            self._finish(record, State.FAILED, str(failure))

    def _start_again(self, record: JobRecord, error: GangFailure) -> None:
        self._log(f"job {record.id}: {error.failure}: all ranks are started again")
        self._queue.count_restart(record.id, record.attempts, error.preempted)
        self._metrics.restarted(error.preempted)
        self._restart()

    def _look(self, record: JobRecord) -> Control:
        """What is asked of the running job. Also writes its progress into the queue.

        Raises:
            LeaseLost: the job belongs to another gang by now.
        """
        self._registration.check()
        self._measure()
        asked = _CONTROLS[self._queue.wish_of(record.id, record.attempts)]
        told_at, told = self._told
        if time.monotonic() - told_at >= _TELL_SECONDS and (progress := self._progress.job) != told:
            self._queue.progress(record.id, record.attempts, progress)
            self._told = time.monotonic(), progress
        return max(asked, Control.PAUSE if self._stop.asked else Control.RUN)

    def _measure(self) -> None:
        if time.monotonic() - self._measured_at > _MEASURE_SECONDS:
            self._measured_at = time.monotonic()
            self._metrics.refresh(self._queue.count_waiting())

    def _settle(self, record: JobRecord, job: Job, result: JobResult) -> None:
        if result.stopped is Control.PAUSE:
            self._log(f"job {record.id} is paused")
            return self._queue.release(record.id, record.attempts)
        if result.stopped is Control.CANCEL:
            job.clean_up()
            return self._finish(record, State.CANCELLED)
        self._queue.progress(record.id, record.attempts, self._progress.job)
        self._finish(record, State.SUCCEEDED)
        job.clean_up()  # after the queue knows: a gang that is killed in between would leave the job to be made again
        for report in result.reports:
            self._metrics.made(report)

    def _finish(self, record: JobRecord, state: State, error: str | None = None) -> None:
        self._queue.finish(record.id, record.attempts, state, error)
        if state is State.FAILED:
            JobFolder.beside(record.video).remove_unless_begun()
        self._log(f"job {record.id} {state.value}" + (f": {error}" if error else ""))
        self._metrics.ended(state)

    def _restart(self) -> None:
        """Start all ranks again, several times if that fails.

        Raises:
            GangFailure, InvalidInput: it failed each time.
            Interrupted: the process was asked to end.
        """
        for failed in range(_STARTS):
            try:
                with self._stop.interrupting():
                    self._loaded.start()
                return
            except (GangFailure, InvalidInput) as error:
                self._log(str(error))
                with suppress(LeaseLost):
                    self._registration.set_state(GangState.STARTING, str(error))
                if failed + 1 == _STARTS:
                    raise
                with self._stop.interrupting():
                    time.sleep(2**failed)
