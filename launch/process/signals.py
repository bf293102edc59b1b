"""Signals that end a process: how the process that a person started handles them, and how its ranks do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType

from launch.process.printable import printable

PARENT_PID = "LOCKSTEP_PARENT_PID"
_TORCHRUN_ID = "TORCHELASTIC_RUN_ID"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1


def is_rank() -> bool:
    """Whether our launcher or torchrun has started this process as a rank.

    RANK alone says nothing: it may be left over in a shell, or belong to another program that started this one.
    """
    return "RANK" in os.environ and (PARENT_PID in os.environ or _TORCHRUN_ID in os.environ)


class Interrupted(BaseException):
    """A signal asked this process to end. Not an Exception, so that `except Exception` does not catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        return 128 + self.signum

    def __str__(self) -> str:
        return "interrupted" if self.signum == signal.SIGINT else f"ended by {self.args[0]}"


def raise_when_interrupted(grace_seconds: float = 5.0) -> None:
    """Turn the first ending signal into `Interrupted`, and end the process if that has not worked in time.

    Python runs signal handlers between bytecodes only, so one alone would wait for a long operation in C++.
    The interpreter's wakeup descriptor is written to by the C handler at once, which starts the clock.
    """
    handler = _FirstRaises()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    for signum in ENDING:
        signal.signal(signum, handler)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(read_end, grace_seconds), daemon=True).start()


class _FirstRaises:
    """A handler of signals that raises the first time only: a second Ctrl-C must not break off the clean-up that the
    first one started."""

    def __init__(self) -> None:
        self.first: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first = signum
            raise Interrupted(signum)


def raise_if_interrupted() -> None:
    """To be called when something has failed: a library may have caught the exception that a signal raised, and failed
    with one of its own.

    Raises:
        Interrupted: a signal came, where :func:`raise_when_interrupted` has prepared for it.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _FirstRaises) and handler.first is not None:
        raise Interrupted(handler.first) from None


def _end_in_time(read_end: int, grace_seconds: float) -> None:
    while True:
        signum = os.read(read_end, 1)[0]
        if signum in ENDING:
            break
    time.sleep(grace_seconds)
    say(f"lockstep: {Interrupted(signum)}")
    os._exit(128 + signum)  # local ranks die with this process


def become_rank() -> None:
    """Make this rank's process easy to end. To be called before anything slow is imported.

    * Ending signals take their default action: a Python handler would not run while the process waits in a
      collective operation.
    * The process is killed when the launcher dies, even of SIGKILL, so that no rank is left behind.
    """
    for signum in ENDING:
        signal.signal(signum, signal.SIG_DFL)
    die_with_parent()
    launcher = os.environ.get(PARENT_PID)
    if launcher and os.getppid() != int(launcher):
        os._exit(1)  # the launcher died before prctl was called


def die_with_parent(signum: signal.Signals = signal.SIGKILL) -> None:
    """Have this process sent a signal when the one that started it is gone, even by SIGKILL. To be called at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


def say(line: str) -> None:
    """Write one line to stderr, without control characters and of bounded length: it may quote what a user gave.

    Errors are ignored: the other end of a pipe may be closed, as `| tee` is on Ctrl-C.
    """
    try:
        sys.stderr.flush()
        os.write(2, (printable(line) + "\n").encode("utf-8", "replace"))
    except (OSError, ValueError):
        pass
