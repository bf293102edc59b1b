"""The end of an attempt at a job, written into the queue however long that is away."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.cluster.outage import Outage
from launch.cluster.stopping import StopRequest
from launch.queue.records import JobRecord, State
from launch.queue.store import LeaseLost, Queue
from launch.queue.trouble import QueueUnusable

_LOOK_SECONDS = 0.2
_LEAVE_SECONDS = 10.0  # for which a gang that is asked to end tries once more


class EndingWriter:
    """Writes what became of a job. A finished video must neither be lost nor made twice because the queue cannot be
    reached just then."""

    def __init__(self, queue: Queue, outage: Outage, stop: StopRequest) -> None:
        self._queue = queue
        self._outage = outage
        self._stop = stop

    def write(self, record: JobRecord, state: State, change: Callable[[], None]) -> None:
        """Make a change to the queue, and try again until it is made.

        Args:
            record: of the attempt that has ended.
            state: that the job has afterwards.
            change: of the queue, by which the attempt gives up the job. May be called several times.

        Raises:
            LeaseLost: the job belongs to another attempt by now.
            QueueUnusable: the queue is still away, and this process is asked to end. The job is found later as one
                whose gang was lost.
        """
        leave_at: float | None = None
        tried = False
        while True:
            try:
                change()
                return self._outage.over()
            except LeaseLost:
                # a commit that failed halfway may have been made all the same
                if tried and self._is_written(record, state):
                    return
                raise
            except QueueUnusable as error:
                tried = True
                until = time.monotonic() + self._outage.failed(error)
                while (now := time.monotonic()) < until:
                    if self._stop.asked:
                        leave_at = leave_at or now + _LEAVE_SECONDS
                        if now > leave_at:
                            raise
                    time.sleep(_LOOK_SECONDS)

    def _is_written(self, record: JobRecord, state: State) -> bool:
        try:
            job = self._queue.job(record.id)
        except QueueUnusable:
            return False
        return job.attempts == record.attempts and job.state is state
