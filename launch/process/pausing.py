"""SIGTERM as a wish to pause: schedulers send it some time before they end a job by force."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import psutil

from launch.process.signals import PARENT_PID, Interrupted, say
from parallel.control import Control

PAUSED = 75
"""Exit code of a run that was paused, EX_TEMPFAIL of sysexits.h: the same command can go on."""
_NOTHING = b"\0"
_MARKER = "pause"
_CONFIRMED_SECONDS = 1.0


class PauseRequest:
    """Inside its ``with`` block SIGTERM asks for a pause, and ends the process if that has not worked in time.

    A second SIGTERM does what the first would have done before. For the main thread.
    """

    def __init__(
        self,
        grace_seconds: float,
        pass_on: Callable[[], None] = lambda: None,
        confirmed: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            grace_seconds: given to the pause; 0 leaves SIGTERM as it is.
            pass_on: called with the first SIGTERM, from its handler.
            confirmed: whether a pause is meant; if it is not within a second, the process dies of the signal.
        """
        self.asked = False
        self._grace_seconds = grace_seconds
        self._pass_on = pass_on
        self._confirmed = confirmed
        self._before: Any = None
        self._wakeup_before = -1

    def control(self) -> Control:
        """What is asked of the engine."""
        return Control.PAUSE if self.asked and self._confirmed() else Control.RUN

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
        limit: float | None = None
        while select.select([self._reading], [], [], limit)[0]:
            byte = os.read(self._reading, 1)
            if byte == _NOTHING:
                return
            if byte[0] == signal.SIGTERM and limit is None:
                limit = self._grace_seconds if self._is_confirmed() else 0.0
            elif self._wakeup_before >= 0:
                os.write(self._wakeup_before, byte)
        if callable(self._before):
            say(f"lockstep: {Interrupted(signal.SIGTERM)}")
            os._exit(128 + signal.SIGTERM)
        ctypes.CDLL(None).signal(int(signal.SIGTERM), None)  # Python lets the main thread alone set it
        os.kill(os.getpid(), signal.SIGTERM)

    def _is_confirmed(self) -> bool:
        deadline = time.monotonic() + _CONFIRMED_SECONDS
        while not (confirmed := self._confirmed()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return confirmed


def order_pause(run_folder: Path) -> None:
    """Have the ranks of this process pause: tell them that it is meant, and send them SIGTERM.

    Args:
        run_folder: of elastic's logs, in which the ranks have their error files.
    """
    (run_folder / _MARKER).touch()
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            process.terminate()


def is_meant() -> bool:
    """Whether SIGTERM asks this rank for a pause.

    Our launcher says so in a file, since it sends SIGTERM as well where another rank has failed or somebody has pressed
    Ctrl-C. Elsewhere, as under torchrun, it may always be meant.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if PARENT_PID not in os.environ or not file:
        return True
    return (Path(file).parents[3] / _MARKER).exists()
