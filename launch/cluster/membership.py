"""A server's place in the queue: its name, and a sign of life also while it waits for something else."""

from __future__ import annotations

import os
import signal
import threading

from engine.errors import InvalidInput
from launch.queue.records import GangState, GangWish
from launch.queue.store import LeaseLost, Queue

_BEAT_SECONDS = 1.0


class Membership:
    """Renews a gang's lease in a thread, and has this process told to end when the user wants the gang to."""

    def __init__(self, queue: Queue, ranks: int, model: str) -> None:
        """
        Args:
            model: as it was given.
        """
        self._queue = queue
        self._ranks, self._model = ranks, model
        self._join(GangState.STARTING)

    def _join(self, state: GangState) -> None:
        self.name = self._queue.register(self._ranks, self._model, state)
        self._lost, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """
        Raises:
            LeaseLost: the gang was given up, and its job with it.
        """
        if self._lost.is_set():
            raise LeaseLost(f"{self.name} is not registered any more: it was silent for too long")

    def renew(self) -> None:
        """Be a gang again, under another name, should this one have been given up."""
        if self._lost.is_set():
            self._join(GangState.READY)

    def say(self, state: GangState, error: str | None = None) -> None:
        """What the gang does, and what went wrong with it last.

        Raises:
            LeaseLost: it was given up.
        """
        self._queue.set_gang_state(self.name, state, error)

    def leave(self) -> None:
        """Be no gang any more; a job that it still has goes back into the queue."""
        self._over.set()
        self._thread.join()
        self._queue.unregister(self.name)

    def _beat(self) -> None:
        asked = False
        while not self._over.wait(_BEAT_SECONDS):
            try:
                wish = self._queue.beat(self.name)
            except LeaseLost:
                self._lost.set()
                return
            except InvalidInput:
                continue  # a full disk, perhaps; the lease is long enough to try again
            if wish is GangWish.DOWN and not asked:
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
