"""A queue that cannot be reached for a while: said once, tried again with growing pauses."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from launch.queue.trouble import QueueUnusable

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.5, 8.0  # of a pause; much less than a lease
_SAY_SECONDS = 600.0


class Outage:
    """Whether the queue can be reached, as the calls of a gang find out. Usable from several threads."""

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            log: takes a line when an outage begins, every ten minutes while it lasts, and when it is over.
            clock: monotonic seconds.
        """
        self.say = log
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said = 0.0

    def failed(self, error: QueueUnusable) -> float:
        """Note that a call has failed.

        Returns:
            Seconds to wait before the next one: a quarter of what the outage has lasted, within bounds, less up to a
            half by chance, so that many gangs do not come back at the same moment.
        """
        with self._lock:
            now = self._clock()
            lasted = now - self._since if self._since is not None else 0.0
            if self._since is None:
                self._since = self._said = now
                self.say(f"{error} It is tried again until it works.")
            elif now - self._said >= _SAY_SECONDS:
                self._said = now
                self.say(f"{error} It has been so for {lasted:.0f} s.")
        pause = min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, lasted / 4))
        return pause * random.uniform(0.5, 1.0)

    def over(self) -> None:
        """Note that a call has succeeded."""
        with self._lock:
            if self._since is not None:
                self.say(f"the queue can be used again, after {self._clock() - self._since:.0f} s")
                self._since = None
