"""The gang of a server: its places, its ranks and its model, brought up again where they broke."""

from __future__ import annotations

from collections.abc import Sequence

from engine.progress import Progress
from launch.cluster.setup import Setup
from launch.gang.gang import Gang
from launch.gang.reservation import Quarters


class LoadedGang:
    """Ray has to be connected."""

    def __init__(self, setup: Setup, progress: Progress) -> None:
        """
        Raises:
            InvalidInput: what is to be loaded cannot work.
        """
        self._setup = setup
        self._progress = progress
        self.job = setup.job(setup.ranks)  # what is loaded: a job without videos
        self.nodes: Sequence[str] = ()  # of each rank
        self._quarters = Quarters(self.job, setup.ranks)
        self._gang: Gang | None = None

    @property
    def gang(self) -> Gang:
        assert self._gang is not None, "it has been started"
        return self._gang

    def start(self) -> None:
        """Start all ranks, and have the model loaded; those that there were are ended first.

        Raises:
            InvalidInput: there is no room in the cluster, or the layout does not fit to the places there.
            GangFailure: a rank could not.
        """
        self._end_ranks()
        places = self._quarters.places()
        self.nodes = places.nodes
        self.job = self._setup.job(self._quarters.ranks, self.nodes)
        self._gang = Gang(places, self._quarters.bundle, self.job.config, self._progress)
        self._gang.load(self.job)

    def stop(self) -> None:
        """End all ranks at once, and give their places back."""
        self._end_ranks()
        self._quarters.release()

    def _end_ranks(self) -> None:
        gang, self._gang = self._gang, None
        if gang:
            gang.stop()
