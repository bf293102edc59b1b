"""Calls of libraries that may never return, with a limit on time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_CHECK_SECONDS = 0.2

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result], check: Callable[[], None] = lambda: None) -> Result:
    """The result of a call, which runs in a thread of its own so that one that hangs can be left behind.

    Args:
        check: called several times a second meanwhile; what it raises is passed on, and leaves the call behind.

    Raises:
        TimeoutError: it has not returned in that time. It goes on in a daemon thread, which ends with the process.
        BaseException: what the call raised.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + seconds
    while not ended.wait(max(0.0, min(_CHECK_SECONDS, deadline - time.monotonic()))):
        check()
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
