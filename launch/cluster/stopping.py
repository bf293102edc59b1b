"""How a signal ends a server: at once while it starts something, after the current step while a job runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from launch.process.signals import ENDING, Interrupted


class StopRequest:
    """Whether SIGINT, SIGTERM or SIGQUIT has asked this process to end."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._at_once = False

    @property
    def asked(self) -> bool:
        return self._signum is not None

    def listen(self) -> None:
        """Install the handlers of signals; again after a library has replaced them."""
        for signum in ENDING:
            signal.signal(signum, self.handle)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        first = not self.asked
        self._signum = self._signum or signum
        if first and self._at_once:
            raise KeyboardInterrupt  # Ray lets no other exception through

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, a signal interrupts whatever runs.

        Raises:
            Interrupted: a signal came, or had come before.
        """
        self._at_once = True
        try:
            if self._signum:
                raise Interrupted(self._signum)
            yield
        except KeyboardInterrupt:
            raise Interrupted(self._signum or signal.SIGINT) from None
        finally:
            self._at_once = False
