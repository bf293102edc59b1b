"""The registration of a gang in the queue: its name, and heartbeats from a thread of their own."""

from __future__ import annotations

import os
import signal
import threading

from engine.errors import InvalidInput
from launch.queue.records import GangState, GangWish
from launch.queue.store import LeaseLost, Queue

_RENEW_SECONDS = 1.0


class GangRegistration:
    """Registers a gang and renews its lease in a thread, also while the main thread waits for something else. Sends
    SIGTERM to this process when the user has asked the gang to end."""

    def __init__(self, queue: Queue, ranks: int, model: str) -> None:
        """
        Args:
            ranks: the world size. model: ``model.path`` as it was given.
        """
        self._queue = queue
        self._ranks, self._model = ranks, model
        self._register(GangState.STARTING)

    def _register(self, state: GangState) -> None:
        self.name = self._queue.register(self._ranks, self._model, state)
        self._expired, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._renew_lease, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """
        Raises:
            LeaseLost: the lease has expired, and another gang may have the job.
        """
        if self._expired.is_set():
            raise LeaseLost(f"{self.name} is not registered any more: it was silent for too long")

    def register_again(self) -> None:
        """Register under another name, if the lease has expired."""
        if self._expired.is_set():
            self._register(GangState.READY)

    def set_state(self, state: GangState, error: str | None = None) -> None:
        """Write into the queue what the gang does, and its last error.

        Raises:
            LeaseLost: the lease has expired.
        """
        self._queue.set_gang_state(self.name, state, error)

    def unregister(self) -> None:
        """Remove the gang from the queue. A job that it still has goes back into the queue."""
        self._ended.set()
        self._thread.join()
        self._queue.unregister(self.name)

    def _renew_lease(self) -> None:
        asked = False
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                wish = self._queue.renew_lease(self.name)
            except LeaseLost:
                self._expired.set()
                return
            except InvalidInput:
                continue  # a full disk, perhaps; the lease is long enough for further attempts
            if wish is GangWish.DOWN and not asked:
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
