"""The server of a loaded gang: it takes one job of the queue after the other."""

from __future__ import annotations

import time

from launch.cluster.health import MachineHealth
from launch.cluster.parts import ServerParts
from launch.cluster.runner import JobRunner, Ran
from launch.cluster.setup import fits
from launch.cluster.starting import RankStarter
from launch.gang.monitor import GangFailure
from launch.jobs.folder import JobFolder
from launch.queue.records import GangState, JobRecord, State
from launch.queue.store import LeaseLost
from launch.queue.trouble import QueueUnusable

_IDLE_SECONDS = 0.5  # between two looks into the queue
_PING_SECONDS = 5.0  # between two checks that all ranks answer, while there is no job


class Server:
    """Serves the queue with one gang."""

    def __init__(self, parts: ServerParts) -> None:
        self._parts = parts
        self._starter = RankStarter(parts.loaded, parts.registration, parts.stop, parts.log)
        self._runner = JobRunner(parts, self._starter)
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
        while not self._parts.stop.asked:
            try:
                self._parts.registration.ensure()
                if wait := self._health.seconds_to_wait:
                    self._rest(min(wait, _IDLE_SECONDS))
                    continue
                record = self._claim()
                self._parts.outage.over()
                if record is None:
                    self._rest(_IDLE_SECONDS)
                    continue
                self._parts.registration.set_state(GangState.BUSY)
                self._take_note(self._runner.run(record))
            except LeaseLost as error:
                self._parts.log(str(error))
                self._passed_over.clear()  # the gang may register in another queue
            except QueueUnusable as error:
                self._rest(self._parts.outage.failed(error))
            except GangFailure as error:  # while there was no job
                self._parts.log(str(error.failure))
                self._starter.start_again()

    def _take_note(self, ran: Ran) -> None:
        """
        Raises:
            MachineBad: the machine has failed too often in a row.
        """
        if ran is Ran.BADLY:
            reason = self._runner.newest_fault
            pause = self._health.did_badly(reason)
            self._parts.log(f"the next job is taken in {pause:.0f} s")
            return self._parts.registration.set_state(GangState.READY, reason)
        if ran is Ran.WELL:
            self._health.did_well()
        self._parts.registration.set_state(GangState.READY)

    def _claim(self) -> JobRecord | None:
        """The next job; None if there is none."""
        for lost in self._parts.queue.requeue_lost():
            self._parts.log(f"job {lost.id} was lost with its gang, and is {lost.described_state}")
            if lost.state is State.CANCELLED:
                for folder in JobFolder.all_of(lost.options):
                    folder.remove()
        self._parts.queue.release_strays(self._parts.registration.name)
        return self._parts.queue.claim(
            self._parts.registration.name, lambda waiting: fits(waiting, self._parts.loaded.job), self._passed_over
        )

    def _rest(self, seconds: float) -> None:
        """Wait, unless this process is asked to end, and see meanwhile that the ranks are alive.

        Raises:
            GangFailure: one does not answer.
        """
        self._parts.metrics.refresh(self._parts.registration.waiting)
        until = time.monotonic() + seconds
        while not self._parts.stop.asked and (left := until - time.monotonic()) > 0:
            if time.monotonic() - self._pinged_at > _PING_SECONDS:
                self._pinged_at = time.monotonic()
                self._parts.loaded.gang.ping()
            time.sleep(min(left, _IDLE_SECONDS))
