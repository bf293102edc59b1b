"""The server of a loaded gang: it takes one job of the queue after the other."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.cluster.health import MachineHealth
from launch.cluster.loaded import LoadedGang
from launch.cluster.metrics import Metrics
from launch.cluster.outage import Outage
from launch.cluster.progress import GangProgress
from launch.cluster.registration import GangRegistration
from launch.cluster.runner import JobRunner, Ran
from launch.cluster.setup import fits
from launch.cluster.starting import RankStarter
from launch.cluster.stopping import StopRequest
from launch.gang.monitor import GangFailure
from launch.jobs.folder import JobFolder
from launch.queue.records import GangState, JobRecord, State
from launch.queue.store import LeaseLost, Queue
from launch.queue.trouble import QueueUnusable

_IDLE_SECONDS = 0.5  # between two looks into the queue
_PING_SECONDS = 5.0  # between two checks that all ranks answer, while there is no job


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
        outage: Outage,
    ) -> None:
        """
        Args:
            loaded: started.
            progress: told what the gang's rank 0 reports.
            log: takes one line for each event.
            outage: told of calls to the queue that fail.
        """
        self._queue = queue
        self._registration = registration
        self._loaded = loaded
        self._stop = stop
        self._metrics = metrics
        self._log = log
        self._outage = outage
        self._starter = RankStarter(loaded, registration, stop, log)
        self._runner = JobRunner(queue, registration, loaded, progress, stop, metrics, log, outage, self._starter)
        self._health = MachineHealth()
        self._pinged_at = 0.0
        self._passed_over: set[int] = set()  # jobs of other models

    def serve(self) -> None:
        """Take jobs until this process is asked to end. A running job is paused then, and goes back into the queue
        unless the user had paused it.

        Raises:
            Interrupted: the process was asked to end while the ranks were being started again.
            RayLost: Ray is gone.
            MachineBad: the machine has failed three jobs in a row, which are back in the queue.
            GangFailure, InvalidInput: the ranks cannot be started again, or the queue is one of another version by now.
                A job that the gang still has goes back into the queue when the gang is unregistered.
        """
        while not self._stop.asked:
            try:
                self._registration.ensure()
                if wait := self._health.seconds_to_wait:
                    self._rest(min(wait, _IDLE_SECONDS))
                    continue
                record = self._claim()
                self._outage.over()
                if record is None:
                    self._rest(_IDLE_SECONDS)
                    continue
                self._registration.set_state(GangState.BUSY)
                self._take_note(self._runner.run(record))
            except LeaseLost as error:
                self._log(str(error))
                self._passed_over.clear()  # the gang may register in another queue
            except QueueUnusable as error:
                self._rest(self._outage.failed(error))
            except GangFailure as error:  # while there was no job
                self._log(str(error.failure))
                self._starter.start_again()

    def _take_note(self, ran: Ran) -> None:
        """
        Raises:
            MachineBad: the machine has failed too often in a row.
        """
        if ran is Ran.BADLY:
            reason = self._runner.newest_fault
            pause = self._health.did_badly(reason)
            self._log(f"the next job is taken in {pause:.0f} s")
            return self._registration.set_state(GangState.READY, reason)
        if ran is Ran.WELL:
            self._health.did_well()
        self._registration.set_state(GangState.READY)

    def _claim(self) -> JobRecord | None:
        """The next job; None if there is none."""
        for lost in self._queue.requeue_lost():
            self._log(f"job {lost.id} was lost with its gang, and is {lost.described_state}")
            if lost.state is State.CANCELLED:
                for folder in JobFolder.all_of(lost.options):
                    folder.remove()
        self._queue.release_strays(self._registration.name)
        return self._queue.claim(
            self._registration.name, lambda waiting: fits(waiting, self._loaded.job), self._passed_over
        )

    def _rest(self, seconds: float) -> None:
        """Wait, unless this process is asked to end, and see meanwhile that the ranks are alive.

        Raises:
            GangFailure: one does not answer.
        """
        self._metrics.refresh(self._registration.waiting)
        until = time.monotonic() + seconds
        while not self._stop.asked and (left := until - time.monotonic()) > 0:
            if time.monotonic() - self._pinged_at > _PING_SECONDS:
                self._pinged_at = time.monotonic()
                self._loaded.gang.ping()
            time.sleep(min(left, _IDLE_SECONDS))
