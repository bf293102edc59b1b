"""The first sign of life of a command that takes seconds to start, where no progress bar will show it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence

from launch.process.signals import PARENT_PID, is_rank, say
from launch.process.stamps import timed

_SLOW = (["generate"], ["resume"], ["sweep"], ["calibrate"], ["bench"], ["check"], ["submit"], ["cluster", "up"])
_SILENT_SECONDS = 1.0


class SignOfLife:
    """Says once that a command has begun: before torch is imported, which takes seconds, or after a second.

    A command that is refused by then says only why. It stands in ``sys.meta_path``, and finds no module.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._is_over = False  # said, or too late to say
        self._lock = threading.Lock()
        timer = threading.Timer(_SILENT_SECONDS, self._say)
        timer.daemon = True
        timer.start()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Called by Python's import of a module that is not loaded yet."""
        if name == "torch":
            self._say()

    def _say(self) -> None:
        with self._lock:
            if not self._is_over:
                say(timed(f"lockstep {self._command}: starting"))
            self._is_over = True

    def hush(self) -> None:
        """The command has ended: it is not said any more, and never beside the reason of a refusal."""
        with self._lock:
            self._is_over = True


def give_sign_of_life(arguments: Sequence[str]) -> Callable[[], None]:
    """Have this process say that it has begun, if it leads a command that takes long and stderr is no terminal.

    Args:
        arguments: of the command line.

    Returns:
        To be called once the command has ended.
    """
    words = next((words for words in _SLOW if list(arguments[: len(words)]) == words), None)
    leads = not is_rank() or (PARENT_PID not in os.environ and os.environ["RANK"] == "0")
    if words and leads and "--help" not in arguments and not os.isatty(2):
        sign = SignOfLife(" ".join(words))
        sys.meta_path.insert(0, sign)
        return sign.hush
    return lambda: None
