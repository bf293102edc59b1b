"""Whether processes had the processors that they asked for, or others had them: what is slow on a crowded machine need
not be broken."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from launch.process.scheduled import scheduled_seconds

# at less than this share of what it asked for, the time that something took is no measure of it
ENOUGH = 0.7
_MOST_PATIENCE = 4.0
_IDLE_SHARE = 0.05


@dataclass(frozen=True)
class Clocks:
    """Seconds of some processes' main threads; only differences mean something. All but wall are 0 where the system
    does not tell (Linux does)."""

    wall: float
    ran: float
    queued: float
    """Ready to run while other threads had the processors."""

    @classmethod
    def of(cls, processes: Iterable[int]) -> Clocks:
        """Of the processes with these ids that are alive."""
        read = [scheduled_seconds(process) or (0.0, 0.0) for process in processes]
        return cls(time.monotonic(), sum(ran for ran, _ in read), sum(queued for _, queued in read))

    def since(self, earlier: Clocks) -> Clocks:
        """The seconds between."""
        # a process that ended meanwhile takes its own with it
        ran, queued = max(0.0, self.ran - earlier.ran), max(0.0, self.queued - earlier.queued)
        return Clocks(self.wall - earlier.wall, ran, queued)

    @property
    def share(self) -> float:
        """Of the processors' time that was asked for, what was had: 1 on a quiet machine, and where next to nothing was
        asked for, so that it made no difference who had them."""
        asked = self.ran + self.queued
        return self.ran / asked if asked > _IDLE_SHARE * self.wall else 1.0

    def patience(self) -> float:
        """How many times its limit something may take on a machine like this one just now: 1 to 4."""
        return min(_MOST_PATIENCE, 1 / max(self.share, 1e-3)) if self.share < ENOUGH else 1.0


def crowded(share: float) -> str:
    """A sentence's part on that share of what was asked for."""
    return f"the machine is busy: this line had the processors for {share:.0%} of the time that it asked for"
