"""The bundles of a Ray cluster in which one gang after another is started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ray.exceptions import RayError

from launch.gang.bundles import RankBundles, Resources, reserve
from launch.gang.connection import count_gpus
from launch.gang.watch import RayWatch
from launch.jobs.elsewhere import Checked
from launch.process.bounded import within

_RELEASE_SECONDS = 5.0


class Reservation:
    """Reserves a bundle for each rank, and the same ones as long as their nodes are up. To be ended with
    :meth:`release`."""

    def __init__(self, job: Checked, ranks: int | None, ray_watch: RayWatch, note: Callable[[str], None]) -> None:
        """
        Args:
            job: as it was checked before anything was known of the cluster.
            ranks: the world size that was asked for, or None for that of the job; where the layout is chosen for the
                machine, for all GPUs of the cluster.
            note: takes a line now and then while there is no room.

        Raises:
            RayLost: Ray is gone.
        """
        self._ray_watch, self._note = ray_watch, note
        gpus = ray_watch.call(count_gpus)
        device = job.config.runtime.device
        self.resources: Resources = {"CPU": 1}
        """Of the bundle of one rank."""
        if device == "cuda" or (device == "auto" and gpus):
            self.resources = {"CPU": 1, "GPU": 1}
        self.ranks = ranks or job.config.parallel.degrees.world_size
        """The world size."""
        if ranks is None and job.given.parallel.is_auto and "GPU" in self.resources:
            self.ranks = max(self.ranks, gpus)
        self._timeout_seconds = job.config.ray.start_timeout_seconds
        self._bundles: RankBundles | None = None

    def bundles(self) -> RankBundles:
        """Those that are reserved; new ones if a node was lost since.

        Raises:
            InvalidInput: the cluster has no room for them.
            RayLost: Ray is gone.
        """
        self._ray_watch.check_now()
        if self._bundles and not self._ray_watch.call(self._bundles.are_intact):
            self.release()
        if not self._bundles:
            self._bundles = reserve(self.ranks, self.resources, self._timeout_seconds, self._ray_watch, self._note)
        return self._bundles

    def release(self) -> None:
        """Give the resources back to the cluster; in bounded time. What is not given back, Ray takes back when this
        process has ended."""
        bundles, self._bundles = self._bundles, None
        if bundles:
            with suppress(RayError, RuntimeError, TimeoutError):
                within(_RELEASE_SECONDS, bundles.release)
