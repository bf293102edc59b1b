"""The registration of a gang in the queue: its name, and a thread that speaks with the queue while ranks work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.errors import InvalidInput
from launch.cluster.outage import Outage
from launch.queue.lost_gangs import LEASE_SECONDS
from launch.queue.records import GangState, GangWish, JobProgress, JobRecord, Wish
from launch.queue.store import LeaseLost, Queue
from launch.queue.trouble import QueueUnusable

_EXCHANGE_SECONDS = 0.5  # between two exchanges with the queue
_RENEW_SECONDS = 1.0
_COUNT_SECONDS = 5.0


@dataclass
class HeldJob:
    """The job that the gang's ranks work at, as the queue knows it."""

    id: int
    attempt: int
    progress: Callable[[], JobProgress]
    told: JobProgress | None = None
    wish: Wish = Wish.RUN
    """What the user has asked of it, as far as that is known."""
    lost: LeaseLost | None = None
    """That it belongs to another attempt by now."""


class GangRegistration:
    """Registers a gang. A thread renews its lease, and writes its state and the progress of its job, so that the thread
    that watches the ranks never waits for the queue's disk. Sends SIGTERM to this process when the user has asked the
    gang to end."""

    def __init__(
        self, queue: Queue, ranks: int, model: str, outage: Outage, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        """
        Args:
            ranks: the world size. model: ``model.path`` as it was given.
            outage: told of calls that fail.

        Raises:
            QueueUnusable: the gang cannot be registered now.
        """
        self._queue = queue
        self._ranks, self._model = ranks, model
        self._outage = outage
        self.lease_seconds = lease_seconds
        """Length of a lease."""
        self.waiting: int | None = None
        """Jobs that wait in the queue, whichever gang they wait for, as they were counted last."""
        self._counted = 0.0
        self._register(GangState.STARTING, create=True)

    def _register(self, state: GangState, create: bool) -> None:
        began = time.monotonic()
        self.name = self._queue.register(self._ranks, self._model, state, create)
        self._renewed = began
        """When the lease was renewed, by this machine's own clock."""
        self._state: tuple[GangState, str | None] = (state, None)
        self._told_state: tuple[GangState, str | None] = self._state
        self._held: HeldJob | None = None
        self._broken: LeaseLost | InvalidInput | None = None
        self._ended, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._exchange_until_ended, name="lease", daemon=True)
        self._thread.start()

    @property
    def seconds_left(self) -> float:
        """Until the lease expires if it is not renewed."""
        return self._renewed + self.lease_seconds - time.monotonic()

    def check(self) -> None:
        """
        Raises:
            LeaseLost: the lease has expired, and another gang may have the job.
            InvalidInput: the queue has been taken over by another version of Lockstep.
        """
        if self._broken is not None:
            raise self._broken

    def ensure(self) -> None:
        """Make sure of the lease before a job is taken: register under another name if it has expired.

        Raises:
            QueueUnusable: that is not possible now.
            InvalidInput: as :meth:`check`.
        """
        if self._broken is None and time.monotonic() - self._renewed > _RENEW_SECONDS:
            try:
                self._renew()
            except LeaseLost as error:
                self._end_thread()
                self._broken = error
        if isinstance(self._broken, LeaseLost):
            self._register(GangState.READY, create=False)
        self.check()

    def set_state(self, state: GangState, error: str | None = None) -> None:
        """Have the queue know soon what the gang does, and its last error."""
        self._state = state, error
        self._wake.set()

    @contextmanager
    def holding(self, record: JobRecord, progress: Callable[[], JobProgress]) -> Iterator[HeldJob]:
        """Inside, the progress of a job is written into the queue, and what the user asks of it is read."""
        held = self._held = HeldJob(record.id, record.attempts, progress)
        self._wake.set()
        try:
            yield held
        finally:
            self._held = None

    def unregister(self) -> None:
        """Remove the gang from the queue, if that can be reached. A job that it still has goes back into the queue."""
        self._end_thread()
        try:
            self._queue.unregister(self.name)
        except InvalidInput as error:
            self._outage.say(f"{self.name} could not take leave of the queue, which will count it as lost: {error}")

    def _renew(self) -> GangWish:
        began = time.monotonic()
        wish = self._queue.renew_lease(self.name)
        self._renewed = max(self._renewed, began)  # another thread may have been quicker
        return wish

    def _end_thread(self) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def _exchange_until_ended(self) -> None:
        pause, asked_to_end = _EXCHANGE_SECONDS, False
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._ended.is_set():
                return
            try:
                wish = self._exchange()
            except QueueUnusable as error:
                pause = self._outage.failed(error)
                continue
            except (LeaseLost, InvalidInput) as error:
                self._broken = error
                return
            self._outage.over()
            pause = _EXCHANGE_SECONDS
            if wish is GangWish.DOWN and not asked_to_end:
                asked_to_end = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _exchange(self) -> GangWish | None:
        began, wish, state = time.monotonic(), None, self._state
        if state != self._told_state:
            self._queue.set_gang_state(self.name, *state)
            self._told_state = state
        if began - self._renewed >= _RENEW_SECONDS:
            wish = self._renew()
        if held := self._held:
            try:
                held.wish = self._queue.wish_of(held.id, held.attempt)
                if (progress := held.progress()) != held.told:
                    self._queue.progress(held.id, held.attempt, progress)
                    held.told = progress
            except LeaseLost as error:
                held.lost = error
        if began - self._counted >= _COUNT_SECONDS:
            self.waiting, self._counted = self._queue.count_waiting(), began
        return wish
