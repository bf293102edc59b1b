"""How a job is attempted again after ranks were lost, and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from launch.gang.monitor import GangFailure
from launch.jobs.config import JobConfig
from launch.process.failures import Failure

DYING_SECONDS = 30
"""How long the killed processes of a gang may hold the job's folder; longer means that a machine is in trouble."""

Outcome = TypeVar("Outcome")


class JobFailure(Exception):
    """The job has failed for good: a rank raised an error, or ranks were lost more often than is allowed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class RestartBudget:
    """The restarts that one job has left. Those after a pre-emption, that is after a node was taken away with notice,
    are counted apart, since the job cannot be their cause."""

    def __init__(self, restarts: int, preemptions: int) -> None:
        """
        Args:
            restarts: that are allowed. preemptions: restarts after a pre-emption that are allowed.
        """
        self._restarts = restarts
        self._preemptions = preemptions

    @classmethod
    def of(cls, config: JobConfig, restarts: int = 0, preemptions: int = 0) -> RestartBudget:
        """What section ``ray`` of the configuration allows, less those that the job has had already."""
        return cls(config.ray.max_restarts - restarts, config.ray.max_preemptions - preemptions)

    def take(self, error: GangFailure) -> bool:
        """Count a failure. Whether the job may be attempted again after it."""
        if not error.lost:
            return False
        if error.preempted:
            self._preemptions -= 1
            return self._preemptions >= 0
        self._restarts -= 1
        return self._restarts >= 0


def attempt_again(
    attempt: Callable[[], Outcome], budget: RestartBudget, start_again: Callable[[GangFailure], None]
) -> Outcome:
    """Attempt a job until it ends, or its ranks were lost too often.

    Args:
        attempt: at the whole job. It goes on from the newest checkpoint, if there is one.
        start_again: makes ready for the next attempt. What it raises is passed on.

    Returns:
        What the attempt that came to an end returned.

    Raises:
        JobFailure: the budget does not allow another attempt.
    """
    while True:
        try:
            return attempt()
        except GangFailure as error:
            lost = error
        if not budget.take(lost):
            raise JobFailure(lost.failure) from lost
        start_again(lost)
