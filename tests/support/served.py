"""A gang's server in this process, with ranks that are plain functions: for what it says to the queue, and when."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from launch.cluster.outage import Outage
from launch.cluster.parts import ServerParts
from launch.cluster.progress import GangProgress
from launch.cluster.registration import GangRegistration
from launch.cluster.server import Server
from launch.cluster.setup import Setup
from launch.gang.gang import JobResult
from launch.jobs.job import Job
from launch.jobs.options import Options
from launch.queue.records import JobRecord, NewJob, State
from launch.queue.store import Queue
from parallel.control import Control
from tests.support.small_model import CONFIG, tiny_config

STEP_SECONDS = 0.02
SECONDS = 30.0  # for anything to happen on a busy machine


class Stop:
    """In the place of a signal's handler."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        yield


class Ranks:
    """In the place of a gang: makes a "video" in some steps, pauses and goes on from where it was."""

    def __init__(self, steps: int, progress: GangProgress) -> None:
        self.steps = steps
        self.starts = 0
        self.refusals: list[Exception] = []
        """Raised one after the other where jobs are accepted."""
        self.failures: list[Exception] = []
        """The same in the middle of a video."""
        self.after: Callable[[], None] = lambda: None
        """Called when a video is finished, before the server hears of it."""
        self.made: list[Path] = []
        self.paused_at: list[int] = []
        self.done: dict[Path, int] = {}
        self.calm = 0.0
        """Seconds of the longest time without a look at what is asked."""
        self._progress = progress
        self._job: Job | None = None

    def accept(self, job: Job) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self._job = job

    def generate(self, control: Callable[[], Control]) -> JobResult:
        assert self._job is not None
        video = self._job.tasks[0].outputs.video
        assert video is not None
        self._progress.stage("denoise")
        for index in range(self.done.get(video, 0), self.steps):
            began = time.monotonic()
            asked = control()
            self.calm = max(self.calm, time.monotonic() - began)
            if asked is Control.PAUSE:
                self.paused_at.append(index)
                return JobResult([], Control.PAUSE)
            if index > self.steps // 2 and self.failures:
                raise self.failures.pop(0)
            time.sleep(STEP_SECONDS)
            self.done[video] = index + 1
            self._progress.step(index, self.steps, "compute")
        self.made.append(video)
        self.after()
        return JobResult([], Control.RUN)

    def ping(self) -> None:
        """They always answer."""


class Served:
    """A queue, and one gang that serves it in a thread."""

    def __init__(self, folder: Path, lease_seconds: float = 60.0, steps: int = 10, name: str = "a") -> None:
        self.folder = folder
        self.log: list[str] = []
        self.queue = Queue(folder / "state", wait_seconds=0.1)
        """The gang's."""
        self.user = Queue(folder / "state")
        self.stop = Stop()
        self.error: BaseException | None = None
        job = Setup(str(CONFIG), ["runtime.device=cpu"], 1).job(1)
        self.outage = Outage(self.log.append)
        progress = GangProgress(self.log.append, lambda name: None)
        self.ranks = Ranks(steps, progress)
        loaded: Any = SimpleNamespace(job=job, node_ids=("node",), gang=self.ranks, start=self._start)
        metrics: Any = SimpleNamespace(**dict.fromkeys(("refresh", "ended", "made", "restarted"), lambda *a, **b: None))
        self.registration = GangRegistration(self.queue, 1, job.model_path, self.outage, lease_seconds)
        stop: Any = self.stop
        parts = (self.queue, self.registration, loaded, progress, stop, metrics, self.log.append, self.outage)
        self.server = Server(ServerParts(*parts))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def submit(self, *names: str) -> list[int]:
        config = tiny_config("model.dtype=auto", "sampling.steps=8").model_dump(mode="json")
        options = [Options(str(CONFIG), ("x",), output=self.folder / f"{name}.mp4") for name in names]
        return self.user.submit([NewJob(each, config) for each in options])

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.stop.asked = True
        self._thread.join(SECONDS)
        self.registration.unregister()
        assert not self._thread.is_alive(), self.log

    def await_that(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (found := what()):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        return found

    def await_job(self, id: int, state: State) -> JobRecord:
        return self.await_that(lambda: (job := self.user.job(id)).state is state and job)

    def _start(self) -> None:
        self.ranks.starts += 1

    def _serve(self) -> None:
        try:
            self.server.serve()
        except BaseException as error:
            self.error = error


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Served]:
    gang = Served(folder, **options)
    try:
        yield gang
    finally:
        if gang._thread.ident is not None:
            gang.end()
        else:
            gang.registration.unregister()
