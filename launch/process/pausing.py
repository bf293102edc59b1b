"""SIGTERM as a wish to pause: schedulers send it some time before they end a job by force."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from launch.process.signals import Interrupted, say
from parallel.control import Control

PAUSED = 75
"""Exit code of a run that was paused, EX_TEMPFAIL of sysexits.h: the same command can go on."""
_NOTHING = b"\0"


class PauseRequest:
    """Inside its ``with`` block SIGTERM asks for a pause, and ends the process if that has not worked in time.

    A second SIGTERM does what the first would have done before. For the main thread.
    """

    def __init__(self, grace_seconds: float, pass_on: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            grace_seconds: given to the pause; 0 leaves SIGTERM as it is.
            pass_on: called with the first SIGTERM, from its handler.
        """
        self.asked = False
        self._grace_seconds = grace_seconds
        self._pass_on = pass_on
        self._before: Any = None
        self._wakeup_before = -1

    def control(self) -> Control:
        """What is asked of the engine."""
        return Control.PAUSE if self.asked else Control.RUN

    def __enter__(self) -> PauseRequest:
        if self._grace_seconds > 0:
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            self._before = signal.signal(signal.SIGTERM, self._handle)
            # written to at once, also while the main thread is in C++ and runs no handler
            self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._end_in_time, name="pause", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grace_seconds > 0:
            signal.set_wakeup_fd(self._wakeup_before, warn_on_full_buffer=False)
            signal.signal(signal.SIGTERM, self._before)
            os.write(self._writing, _NOTHING)
            self._thread.join()
            os.close(self._reading)
            os.close(self._writing)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self._pass_on()
        elif callable(self._before):  # of a rank it is the default action: its launcher repeats what all were sent
            self._before(signum, frame)

    def _end_in_time(self) -> None:
        signum, limit = 0, None
        while select.select([self._reading], [], [], limit)[0]:
            byte = os.read(self._reading, 1)
            if byte == _NOTHING:
                return
            if byte[0] == signal.SIGTERM and limit is None:
                signum, limit = byte[0], self._grace_seconds
            elif self._wakeup_before >= 0:
                os.write(self._wakeup_before, byte)
        say(f"lockstep: {Interrupted(signum)}")
        os._exit(128 + signum)
