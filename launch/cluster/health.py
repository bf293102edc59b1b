"""How a gang behaves when its machine fails: it waits before the next job, and ends after three failures in a row."""

from __future__ import annotations

import time
from collections.abc import Callable

_IN_A_ROW = 3
_FIRST_PAUSE_SECONDS = 15.0  # before the next job; four times as long after the next failure


class MachineBad(Exception):
    """The machine has failed too often in a row; one sentence."""


class MachineHealth:
    """The newest jobs of a gang, as far as they say something of its machine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._reasons: list[str] = []
        self._until = 0.0

    @property
    def seconds_to_wait(self) -> float:
        """Until the gang takes its next job."""
        return max(0.0, self._until - self._clock())

    def did_well(self) -> None:
        """A job went well."""
        self._reasons, self._until = [], 0.0

    def did_badly(self, reason: str) -> float:
        """A job was given back.

        Returns:
            Seconds until the gang takes the next one.

        Raises:
            MachineBad: it was the third in a row.
        """
        self._reasons.append(reason)
        if len(self._reasons) >= _IN_A_ROW:
            reasons = "; ".join(dict.fromkeys(self._reasons))
            raise MachineBad(
                f"This machine has failed {len(self._reasons)} jobs in a row, which are back in the queue ({reasons}): "
                "mend it, then bring the gang up again."
            )
        pause = _FIRST_PAUSE_SECONDS * 4.0 ** (len(self._reasons) - 1)
        self._until = self._clock() + pause
        return pause
