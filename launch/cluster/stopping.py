"""How a server ends: at once while it starts something, in good order while it works."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from launch.process.signals import ENDING, Interrupted


class Stop:
    """Whether a signal has asked this process to end."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._at_once = False

    @property
    def asked(self) -> bool:
        return self._signum is not None

    def listen(self) -> None:
        """Take the signals, also from a library that has taken them since."""
        for signum in ENDING:
            signal.signal(signum, self.handle)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        first = not self.asked
        self._signum = self._signum or signum
        if first and self._at_once:
            raise KeyboardInterrupt  # nothing else comes out of Ray

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Break off what is inside.

        Raises:
            Interrupted: it was.
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
