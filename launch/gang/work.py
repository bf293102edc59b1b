"""Any collective work on the ranks of a Ray cluster: what `launch.ranks.program.run_on_ranks` is for local ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, TypeVar

import ray
from ray.exceptions import RayError

from engine.progress import Progress
from launch.gang.actors import Actors
from launch.gang.bundles import RankBundles, Resources, machines_of
from launch.gang.driver import Driver
from launch.gang.fetching import Fetching
from launch.gang.monitor import GangFailure
from launch.gang.reservation import Reservation
from launch.gang.restarts import JobFailure
from launch.gang.watch import RayWatch
from launch.gang.worker import Work, Worker, WorkOutcome
from launch.jobs.elsewhere import GangWork
from launch.process.bounded import within
from launch.process.failures import describe
from parallel.control import Control
from parallel.place import Place

_LOOK_SECONDS = 0.5
_END_SECONDS = 5.0

Job = TypeVar("Job", bound=GangWork)
Outcome = TypeVar("Outcome")


def run_work_on_ray(
    prepare: Callable[[Place], Job],
    work: Callable[[Job, Progress, int], Outcome | None],
    summarise: Callable[[Outcome, IO[str]], None],
    ranks: int | None,
    address: str | None,
) -> int:
    """Check work here, then again for the nodes that its ranks got; have each rank check it on its node and do its
    part; and write the results here, whichever node the first rank is on.

    A rank that raises or is lost ends the work: nothing is attempted again, since a measurement with a gap is none.
    What is in the folder of results by then stays, for work that goes on from it when it is run again.

    Args:
        prepare: checks the work for a place. It is called with a launcher's place whose ranks are elsewhere.
        work: a function of a module, collective over the ranks. What it returns, on the first rank, is summarised on
            stdout here; it is pickled.
        ranks: the world size that was asked for, or None for what the degrees multiply to; where the layout is chosen
            for the machine, for all GPUs of the cluster.
        address: of the cluster, as of :func:`launch.gang.connection.connected`.

    Returns:
        The exit code.

    Raises:
        InvalidInput: the checks failed, there is no cluster, or no room in it.
        Interrupted: a signal came. All ranks have ended.
    """
    job = prepare(Place(ranks, elsewhere=True))
    world_size = job.config.parallel.degrees.world_size
    driver = Driver(address, ranks or world_size, job.config.ray.head_timeout_seconds, summarise)

    def run(progress: Progress, ray_watch: RayWatch, succeed: Callable[[Outcome], None]) -> None:
        reservation = Reservation(job, ranks, ray_watch, progress.note)
        try:
            bundles = reservation.bundles()
            machines, ranks_each = machines_of(bundles.node_ids)
            settled = prepare(Place(reservation.ranks, local_ranks=ranks_each, nodes=machines, elsewhere=True))
            with WorkGang(bundles, reservation.resources, settled, progress, ray_watch) as gang:
                succeed(gang.run(work))
        except GangFailure as error:
            raise JobFailure(error.failure) from error
        finally:
            reservation.release()

    return driver.run(run, world_size)


class WorkGang(Actors):
    """Ranks that do one work."""

    def __init__(
        self, bundles: RankBundles, resources: Resources, job: GangWork, progress: Progress, ray_watch: RayWatch
    ) -> None:
        """As of :class:`launch.gang.actors.Actors`."""
        super().__init__(Worker, bundles, resources, job.config, progress, ray_watch)
        self._job = job
        self._mirrored: Mapping[int, Any] = {}

    def run(self, work: Work[Any]) -> Any:
        """Do the work. Returns what the first rank has returned, once its files are written here.

        Raises:
            GangFailure: a rank failed or was lost, or a file cannot be written.
            RayLost: Ray is gone.
        """
        port = self.become_ranks()
        here = ray.get_runtime_context().get_node_id()
        self._mirrored = {
            rank: actor
            for rank, (actor, bundle) in enumerate(zip(self._actors, self._by_rank, strict=True))
            if bundle.node_id != here
        }
        if self._mirrored:
            self._monitor.watch(
                [actor.open_mirror.remote(rank in self._mirrored) for rank, actor in enumerate(self._actors)]
            )
        fetching = Fetching(self._mirrored, self._job.output.parent, self._job.owned, self._answer)
        try:
            fetching.send(self._progress.note)

            def control() -> Control:
                fetching.check()
                return Control.RUN

            works = [actor.work.remote(port, self._job, work) for actor in self._actors]
            first, *_ = self._monitor.watch(works, control=control)
            fetching.finish()
        except (OSError, RayError) as error:
            cause = getattr(error, "cause", None) or error  # of what an actor has raised
            raise GangFailure(describe(cause, 0, "write"), lost=False) from error
        except GangFailure:
            fetching.stop()
            with suppress(Exception):  # what the others have written until now
                within(_END_SECONDS, fetching.look)
            raise
        finally:
            fetching.stop()
        assert isinstance(first, WorkOutcome), "it has not failed"
        return first.result

    def stop(self) -> None:
        """As of :meth:`launch.gang.actors.Actors.stop`; mirrors are removed first."""
        mirrored, self._mirrored = self._mirrored, {}
        if mirrored and not self._ray_watch.is_lost:
            with suppress(RayError, TimeoutError):
                within(
                    _END_SECONDS,
                    lambda: ray.wait(
                        [actor.close_mirror.remote() for actor in mirrored.values()],
                        num_returns=len(mirrored),
                        timeout=_END_SECONDS,
                    ),
                )
        super().stop()

    def _answer(self, asked: Any) -> Any:
        """What an actor answers about its files.

        Raises:
            RayLost: Ray is gone.
            OSError: the answer has not come, or its disk fails.
        """
        limit = self._config.ray.silence_timeout_seconds
        deadline = time.monotonic() + limit
        while not ray.wait([asked], timeout=_LOOK_SECONDS)[0]:
            self._ray_watch.check()
            if time.monotonic() > deadline:
                raise OSError(f"a rank has not answered about its files for {limit:g} s")
        return ray.get(asked)
