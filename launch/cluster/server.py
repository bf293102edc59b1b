"""A gang that is kept loaded, and its way from one job of the queue to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from engine.errors import InvalidInput, sentence
from launch.cluster.loaded import LoadedGang
from launch.cluster.membership import Membership
from launch.cluster.metrics import Metrics
from launch.cluster.setup import StillAtWork, fits, prepare_for
from launch.cluster.stopping import Stop
from launch.cluster.watch import GangWatch
from launch.gang.gang import Ending
from launch.gang.monitor import GangFailure
from launch.gang.restarts import Budget
from launch.gang.run import DYING_SECONDS
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.queue.records import GangState, JobProgress, JobRecord, State, Wish
from launch.queue.store import LeaseLost, Queue
from parallel.control import Control

_IDLE_SECONDS = 0.5  # between two looks into the queue
_TELL_SECONDS = 0.5  # between two records of a job's progress
_STAND_BY_SECONDS = 5.0  # between two looks whether all ranks are there, while there is nothing to do
_MEASURE_SECONDS = 5.0
_STARTS = 5  # in a row that may fail before the server gives up
_WISHES = {Wish.RUN: Control.RUN, Wish.PAUSE: Control.PAUSE, Wish.CANCEL: Control.CANCEL}


class Refused(Exception):
    """A rank cannot do the job; none has begun, so the gang can take another one."""


class Server:
    """Of one gang."""

    def __init__(
        self,
        queue: Queue,
        membership: Membership,
        loaded: LoadedGang,
        watch: GangWatch,
        stop: Stop,
        metrics: Metrics,
        log: Callable[[str], None],
    ) -> None:
        """
        Args:
            loaded: started.
            watch: is told what the gang's first rank tells.
        """
        self._queue = queue
        self._membership = membership
        self._loaded = loaded
        self._watch = watch
        self._stop = stop
        self._metrics = metrics
        self._log = log
        self._stood_by = self._measured = 0.0
        self._told: tuple[float, JobProgress | None] = (0.0, None)

    def serve(self) -> None:
        """Until it is asked to end. A job that is under way then is paused, and may go back into the queue.

        Raises:
            Interrupted: it was asked while the ranks were being started again. GangFailure, InvalidInput: they cannot
            be. A job that it still has goes back into the queue when the gang leaves.
        """
        while not self._stop.asked:
            try:
                self._membership.check()
                record = self._claim()
                if record is not None:
                    self._membership.say(GangState.BUSY)
                    self._do(record)
                    self._membership.say(GangState.READY)
            except LeaseLost as error:
                self._log(f"{error}: all ranks are ended, since another gang may have the job")
                self._restart()
                self._membership.renew()
            except GangFailure as error:  # while there was nothing to do
                self._log(str(error.failure))
                self._restart()

    def _claim(self) -> JobRecord | None:
        """The next job; where there is none, after a moment."""
        for lost in self._queue.take_back_lost():
            self._log(f"job {lost.id} was lost with its gang, and is {lost.described_state}")
            if lost.state is State.CANCELLED:
                JobFolder.beside(lost.video).remove()
        record = self._queue.claim(self._membership.name, lambda waiting: fits(waiting, self._loaded.job))
        if record is None:
            if time.monotonic() - self._stood_by > _STAND_BY_SECONDS:
                self._stood_by = time.monotonic()
                self._loaded.gang.stand_by()
            self._measure()
            time.sleep(_IDLE_SECONDS)
        return record

    def _do(self, record: JobRecord) -> None:
        """One job, on one gang after the other if need be, until it has ended or nobody knows better."""
        self._log(f"job {record.id}, attempt {record.attempts}: {record.video}")
        self._watch.begin_job(record.progress)
        try:
            budget = Budget(record.parsed_config, record.restarts, record.preemptions)
        except InvalidInput as error:
            return self._finish(record, State.FAILED, sentence(error))
        while True:
            try:
                job = prepare_for(record, self._loaded.job, self._loaded.nodes, DYING_SECONDS)
            except StillAtWork as error:
                self._log(f"job {record.id}: {error}")
                return self._queue.give_back(record.id, record.attempts)
            except InvalidInput as error:
                return self._finish(record, State.FAILED, sentence(error))
            try:
                return self._settle(record, job, self._make(record, job))
            except Refused as error:
                return self._finish(record, State.FAILED, str(error))
            except GangFailure as error:
                goes_on = budget.take(error)
                self._log(f"job {record.id}: {error.failure}: all ranks are started again")
                if goes_on:
                    self._queue.count_restart(record.id, record.attempts, error.preempted)
                    self._metrics.restarted(error.preempted)
                else:
                    self._finish(record, State.FAILED, str(error.failure))
                self._restart()
                if not goes_on:
                    return None

    def _make(self, record: JobRecord, job: Job) -> Ending:
        try:
            self._loaded.gang.take(job)
        except GangFailure as error:
            if error.lost:
                raise
            raise Refused(str(error.failure)) from None
        return self._loaded.gang.generate(lambda: self._look(record))

    def _look(self, record: JobRecord) -> Control:
        """What is wanted of the job; beside that its record is kept.

        Raises:
            LeaseLost: it is another gang's by now.
        """
        self._membership.check()
        self._measure()
        wish = _WISHES[self._queue.wish_of(record.id, record.attempts)]
        told_at, told = self._told
        if time.monotonic() - told_at >= _TELL_SECONDS and (progress := self._watch.job) != told:
            self._queue.progress(record.id, record.attempts, progress)
            self._told = time.monotonic(), progress
        return max(wish, Control.PAUSE if self._stop.asked else Control.RUN)

    def _measure(self) -> None:
        if time.monotonic() - self._measured > _MEASURE_SECONDS:
            self._measured = time.monotonic()
            self._metrics.refresh(sum(job.state is State.QUEUED for job in self._queue.jobs()))

    def _settle(self, record: JobRecord, job: Job, ending: Ending) -> None:
        if ending.stopped is Control.PAUSE:
            self._log(f"job {record.id} is paused")
            return self._queue.give_back(record.id, record.attempts)
        if ending.stopped is Control.CANCEL:
            job.clean_up()
            return self._finish(record, State.CANCELLED)
        self._queue.progress(record.id, record.attempts, self._watch.job)
        self._finish(record, State.SUCCEEDED)
        job.clean_up()  # not before the queue knows, or a gang that is killed now would leave the job to be done again
        for report in ending.reports:
            self._metrics.made(report)

    def _finish(self, record: JobRecord, state: State, error: str | None = None) -> None:
        self._queue.finish(record.id, record.attempts, state, error)
        if state is State.FAILED:
            JobFolder.beside(record.video).remove_unless_begun()
        self._metrics.ended(state)
        self._log(f"job {record.id} {state.value}" + (f": {error}" if error else ""))

    def _restart(self) -> None:
        """All ranks anew, with patience.

        Raises:
            GangFailure, InvalidInput: in vain. Interrupted: the server is asked to end.
        """
        for failed in range(_STARTS):
            try:
                with self._stop.at_once():
                    self._loaded.start()
                return
            except (GangFailure, InvalidInput) as error:
                self._log(str(error))
                with suppress(LeaseLost):
                    self._membership.say(GangState.STARTING, str(error))
                if failed + 1 == _STARTS:
                    raise
                with self._stop.at_once():
                    time.sleep(2**failed)
