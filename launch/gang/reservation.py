"""The bundles of a Ray cluster in which one gang after another is started."""

from __future__ import annotations

from launch.gang.bundles import RankBundles, Resources, reserve
from launch.gang.connection import count_gpus
from launch.jobs.job import Job


class Reservation:
    """Reserves a bundle for each rank, and the same ones as long as their nodes are up. To be ended with
    :meth:`release`."""

    def __init__(self, job: Job, ranks: int | None) -> None:
        """
        Args:
            job: as it was checked before anything was known of the cluster.
            ranks: the world size that was asked for, or None for that of the job; where the layout is chosen for the
                machine, for all GPUs of the cluster.
        """
        gpus = count_gpus()
        device = job.config.runtime.device
        self.resources: Resources = {"CPU": 1}
        """Of the bundle of one rank."""
        if device == "cuda" or (device == "auto" and gpus):
            self.resources = {"CPU": 1, "GPU": 1}
        self.ranks = ranks or job.degrees.world_size
        """The world size."""
        if ranks is None and job.given.parallel.is_auto and "GPU" in self.resources:
            self.ranks = max(self.ranks, gpus)
        self._timeout_seconds = job.config.ray.start_timeout_seconds
        self._bundles: RankBundles | None = None

    def bundles(self) -> RankBundles:
        """Those that are reserved; new ones if a node was lost since.

        Raises:
            InvalidInput: the cluster has no room for them.
        """
        if self._bundles and not self._bundles.are_intact():
            self.release()
        if not self._bundles:
            self._bundles = reserve(self.ranks, self.resources, self._timeout_seconds)
        return self._bundles

    def release(self) -> None:
        """Give the resources back to the cluster."""
        bundles, self._bundles = self._bundles, None
        if bundles:
            bundles.release()
