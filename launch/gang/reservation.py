"""Where one gang after another finds its places: the same ones as long as their nodes live."""

from __future__ import annotations

from launch.gang.connection import count_gpus
from launch.gang.places import Bundle, Places, reserve
from launch.jobs.config import JobConfig
from parallel.degrees import Degrees


class Quarters:
    """Reserves, and gives back when left. To be left with :meth:`release`."""

    def __init__(self, config: JobConfig, degrees: Degrees, ranks: int | None) -> None:
        """
        Args:
            degrees: what the configured ones multiply to, as far as that was known before the cluster was.
            ranks: the world size that was asked for, or None for that of ``degrees``; where the layout is chosen for
                the machine, for all GPUs of the cluster.
        """
        gpus = count_gpus()
        device = config.runtime.device
        self.bundle: Bundle = {"CPU": 1}
        if device == "cuda" or (device == "auto" and gpus):
            self.bundle = {"CPU": 1, "GPU": 1}
        self.ranks = ranks or degrees.world_size
        if ranks is None and config.parallel.is_auto and "GPU" in self.bundle:
            self.ranks = max(self.ranks, gpus)
        self._timeout_seconds = config.ray.start_timeout_seconds
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
