"""All ranks of a replica wait together: for writes that take long, and for a disk that takes no files.

Every wait is a loop of small collectives with a pause between them. So no rank's collective takes long, whatever the
limit on one is, and no rank is silent; and a pause or a cancellation takes effect at once.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DiskFailure, stop_if_asked
from engine.progress import Progress
from engine.storage.disks import Trouble
from parallel.broadcast import objects_of_all
from parallel.control import Control
from parallel.ranks import Ranks

_LOOK_SECONDS = 0.3
_FIRST_LOOK_SECONDS = 0.002  # most writes are done by then, and the denoise loop should not wait for longer
_SAY_SECONDS = 60.0
_SLOWEST_SECONDS = 600.0  # a write that takes less is waited for in any case
# between a failed write and the next one: at least, where a small file can be written; and at most, in any case
_EAGER_SECONDS, _BLIND_SECONDS = 0.5, 10.0
_MOST_EAGER_SECONDS, _MOST_BLIND_SECONDS = 30.0, 300.0


@dataclass(frozen=True)
class Waiting:
    """What waits of one request have in common, on one rank."""

    ranks: Ranks
    limit_seconds: float = 0.0
    """How long a disk that takes no files is waited for."""
    control: Callable[[], Control] = lambda: Control.RUN
    """What this rank asks of all."""
    progress: Progress = Progress()  # noqa: RUF009  (it has no state)

    def until_done(self, work: Future[Any] | None, folder: Path) -> None:
        """Return once the work of every rank is done, whatever came of it. Collective over the replica.

        Args:
            work: of this rank; None if it has none.
            folder: that it writes to.

        Raises:
            DiskFailure: it has taken longer than a disk is waited for; on all ranks. The work cannot be broken off.
        """
        pause, began = _FIRST_LOOK_SECONDS, time.monotonic()
        while True:
            if work is not None:
                wait_for([work], timeout=pause)
            seconds = time.monotonic() - began
            looks = objects_of_all((work is None or work.done(), seconds), self.ranks)
            if all(is_done for is_done, _ in looks):
                return
            if looks[0][1] > max(self.limit_seconds, _SLOWEST_SECONDS):  # the first rank's clock counts for all
                raise DiskFailure(f"{folder} has not taken a file for {seconds:.0f} s: see to its disk, then resume.")
            if work is None or work.done():
                time.sleep(pause)
            pause = min(2 * pause, _LOOK_SECONDS)
            self.progress.alive()

    def shared(self, trouble: Trouble | None) -> Trouble | None:
        """The trouble of the first rank that has any, on every rank. Collective over the replica."""
        return next((found for found in objects_of_all(trouble, self.ranks) if found is not None), None)


@dataclass(frozen=True)
class _Look:
    """What one rank tells the others."""

    control: Control
    trouble: Trouble | None
    free: str
    is_over: bool
    outage_seconds: float
    tried_seconds: float


class Outage:
    """A disk's trouble from the first failed write until one succeeds, or the limit of time has passed."""

    def __init__(self, waiting: Waiting, stage: str) -> None:
        """
        Args:
            stage: that the request is in, which progress goes back to after a wait.
        """
        self._waiting = waiting
        self._stage = stage
        self._began: float | None = None
        self._said_at = 0.0
        self._eager_tries = self._blind_tries = 0
        self._told: Trouble | None = None

    @property
    def seconds(self) -> float:
        """Since the first failed write."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def await_next_try(self, trouble: Trouble | None, needed_bytes: int) -> bool:
        """After a failed write: wait until it is worth another try. Collective over the replica.

        That is when a small file can be written, and there is room if there was none; and now and then in any case,
        since neither says for certain what a large file will meet.

        Args:
            trouble: of this rank; some rank has one.
            needed_bytes: that the write takes.

        Returns:
            False if the limit has passed, or the trouble is of a kind that stays.

        Raises:
            Paused, Cancelled: some rank's control word said so; on all ranks.
        """
        waiting, tried = self._waiting, time.monotonic()
        self._began = tried if self._began is None else self._began
        eager = min(_EAGER_SECONDS * 2**self._eager_tries, _MOST_EAGER_SECONDS)
        blind = min(_BLIND_SECONDS * 2**self._blind_tries, _MOST_BLIND_SECONDS)
        if self._told is None:
            waiting.progress.stage("room")
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="room")  # a look at a dead mount may take minutes
        try:
            look: Future[tuple[bool, str]] | None = None
            is_over, free = trouble is None, "unknown"
            while True:
                if trouble is not None and (look is None or look.done()):
                    if look is not None:
                        is_over, free = look.result()
                    look = pool.submit(_look_at, trouble, needed_bytes)
                    wait_for([look], timeout=_LOOK_SECONDS)
                    if look.done():
                        is_over, free = look.result()
                now = time.monotonic()
                own = _Look(waiting.control(), trouble, free, is_over, now - self._began, now - tried)
                looks: list[_Look] = objects_of_all(own, waiting.ranks)
                stop_if_asked(max(look.control for look in looks), "the wait for room")
                troubled = [look for look in looks if look.trouble is not None]
                first = looks[0]  # whose clock counts for all
                if first.outage_seconds >= waiting.limit_seconds or not all(_may_pass(look) for look in troubled):
                    waiting.progress.stage(self._stage)
                    return False
                self._tell(troubled[0])
                is_eager = all(look.is_over for look in looks)
                if first.tried_seconds >= (eager if is_eager else blind):
                    self._eager_tries += is_eager
                    self._blind_tries += not is_eager
                    return True
                time.sleep(_LOOK_SECONDS)
                waiting.progress.alive()
        finally:
            pool.shutdown(wait=False)

    def end(self) -> None:
        """The write has succeeded: say so, if it was waited for."""
        if self._told is not None:
            folder = self._told.folder
            self._waiting.progress.stage(self._stage)
            self._waiting.progress.note(f"{folder} takes files again, after {self.seconds:.0f} s: going on")

    def _tell(self, look: _Look) -> None:
        if self._told is not None and time.monotonic() - self._said_at < _SAY_SECONDS:
            return
        self._told, self._said_at = look.trouble, time.monotonic()
        self._waiting.progress.note(f"{look.trouble}: waiting, free {look.free}")


def _may_pass(look: _Look) -> bool:
    return look.trouble is None or look.trouble.may_pass


def _look_at(trouble: Trouble, needed_bytes: int) -> tuple[bool, str]:
    return trouble.is_over(needed_bytes), trouble.free
