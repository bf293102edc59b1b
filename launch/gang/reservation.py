"""Where one gang after another finds its places: the same ones as long as their nodes live."""

from __future__ import annotations

from launch.gang.connection import count_gpus
from launch.gang.places import Bundle, Places, reserve
from launch.jobs.job import Job


class Quarters:
    """Reserves, and gives back when left. To be left with :meth:`release`."""

    def __init__(self, job: Job, ranks: int | None) -> None:
        """
        Args:
            job: as it was checked before anything was known of the cluster.
            ranks: the world size that was asked for, or None for that of the job; where the layout is chosen for the
                machine, for all GPUs of the cluster.
        """
        gpus = count_gpus()
        device = job.config.runtime.device
        self.bundle: Bundle = {"CPU": 1}
        if device == "cuda" or (device == "auto" and gpus):
            self.bundle = {"CPU": 1, "GPU": 1}
        self.ranks = ranks or job.degrees.world_size
        if ranks is None and job.given.parallel.is_auto and "GPU" in self.bundle:
            self.ranks = max(self.ranks, gpus)
        self._timeout_seconds = job.config.ray.start_timeout_seconds
        self._places: Places | None = None

    def places(self) -> Places:
        """One for each rank.

        Raises:
            InvalidInput: there is no room in the cluster.
        """
        if self._places and not self._places.are_intact():
            self.release()
        if not self._places:
            self._places = reserve(self.ranks, self.bundle, self._timeout_seconds)
        return self._places

    def release(self) -> None:
        """Give the resources back."""
        places, self._places = self._places, None
        if places:
            places.release()
