"""How often a job may be begun again after ranks were lost."""

from __future__ import annotations

from launch.gang.monitor import GangFailure
from launch.jobs.config import JobConfig


class Budget:
    """Of one job. Nodes that were taken away, as had been said beforehand, count apart: the job has no part in it."""

    def __init__(self, config: JobConfig, restarts: int = 0, preemptions: int = 0) -> None:
        """
        Args:
            restarts, preemptions: that the job has had already.
        """
        self._restarts = config.ray.max_restarts - restarts
        self._preemptions = config.ray.max_preemptions - preemptions

    def take(self, error: GangFailure) -> bool:
        """Whether the job may be begun again after this, which is counted."""
        if not error.lost:
            return False
        if error.preempted:
            self._preemptions -= 1
            return self._preemptions >= 0
        self._restarts -= 1
        return self._restarts >= 0
