"""The gang of a server: its bundles, its ranks and its loaded model, all started again when ranks are lost."""

from __future__ import annotations

from collections.abc import Sequence

from engine.progress import Progress
from launch.cluster.setup import Setup
from launch.gang.gang import Gang
from launch.gang.reservation import Reservation
from launch.gang.watch import RayWatch


class LoadedGang:
    """A gang with a loaded model and no job. Ray has to be connected."""

    def __init__(self, setup: Setup, progress: Progress, ray_watch: RayWatch) -> None:
        """
        Args:
            progress: told what rank 0 reports, and what is waited for.

        Raises:
            InvalidInput: the model or the layout cannot work.
            RayLost: Ray is gone.
        """
        self._ray_watch = ray_watch
        self._setup = setup
        self._progress = progress
        self.job = setup.job(setup.ranks)
        """What is loaded, as a job without videos."""
        self.node_ids: Sequence[str] = ()
        """The node of each rank."""
        self._reservation = Reservation(self.job, setup.ranks, ray_watch, progress.note)
        self._gang: Gang | None = None

    @property
    def gang(self) -> Gang:
        """The ranks; :meth:`start` has to be called before."""
        assert self._gang is not None, "it has been started"
        return self._gang

    def start(self) -> None:
        """Kill the ranks that there are, start all ranks and have them load the model.

        Raises:
            InvalidInput: the cluster has no room, or the layout does not fit the nodes.
            GangFailure: a rank failed or was lost.
            RayLost: Ray is gone.
        """
        self._kill_ranks()
        bundles = self._reservation.bundles()
        self.node_ids = bundles.node_ids
        self.job = self._setup.job(self._reservation.ranks, self.node_ids)
        for line in self.job.notes:
            self._progress.note(line)
        self._gang = Gang(bundles, self._reservation.resources, self.job.config, self._progress, self._ray_watch)
        self._gang.load(self.job)

    def stop(self) -> None:
        """Kill all ranks, and give their resources back to the cluster."""
        self._kill_ranks()
        self._reservation.release()

    def _kill_ranks(self) -> None:
        gang, self._gang = self._gang, None
        if gang:
            gang.stop()
