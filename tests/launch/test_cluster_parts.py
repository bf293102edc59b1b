"""Parts of a gang's server that need no gang."""

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import InvalidInput
from launch.cluster.loaded import LoadedGang
from launch.cluster.metrics import step_seconds
from launch.cluster.parts import ServerParts
from launch.cluster.progress import GangProgress
from launch.cluster.server import Server
from launch.cluster.setup import Setup, fits
from launch.cluster.stopping import StopRequest
from launch.gang.monitor import GangFailure
from launch.gang.restarts import JobFailure, RestartBudget, attempt_again
from launch.jobs.config import load_job_config
from launch.jobs.options import Options
from launch.process.failures import Failure
from launch.process.signals import Interrupted
from launch.queue.records import JobProgress, NewJob, State, timeline_of
from launch.queue.store import Queue
from launch.screens.summary import count_actions, draw_timeline
from tests.support.small_model import CONFIG, tiny_config

LOST = GangFailure(Failure(0, "load", "it died", 0), lost=True)
PREEMPTED = GangFailure(Failure(0, "load", "it was pre-empted", 0), lost=True, preempted=True)
RAISED = GangFailure(Failure(0, "load", "it raised", 0), lost=False)


def test_preemptions_count_apart_and_what_a_rank_raised_is_never_tried_again() -> None:
    budget = RestartBudget.of(
        load_job_config(CONFIG, ["ray.max_restarts=3", "ray.max_preemptions=2"]), restarts=1, preemptions=0
    )
    assert not budget.take(RAISED)
    assert [budget.take(error) for error in (PREEMPTED, LOST, LOST, PREEMPTED)] == [True] * 4
    assert not budget.take(PREEMPTED)
    assert not budget.take(LOST)


def test_a_job_is_attempted_again_until_it_ends_or_its_budget_does() -> None:
    ends: list[GangFailure | str] = [LOST, PREEMPTED, "made"]
    started: list[GangFailure] = []

    def attempt() -> str:
        end = ends.pop(0)
        if isinstance(end, GangFailure):
            raise end
        return end

    assert attempt_again(attempt, RestartBudget(1, 1), started.append) == "made" and started == [LOST, PREEMPTED]
    ends[:] = [LOST, LOST, "made"]
    with pytest.raises(JobFailure, match="it died"):
        attempt_again(attempt, RestartBudget(1, 1), started.append)
    ends[:] = [RAISED, "made"]
    with pytest.raises(JobFailure, match="it raised"):
        attempt_again(attempt, RestartBudget(1, 1), started.append)
    assert started == [LOST, PREEMPTED, LOST] and ends == ["made"]


def test_ranks_that_cannot_be_started_again_are_no_failure_of_the_job() -> None:
    def attempt() -> None:
        raise LOST

    def start_again(error: GangFailure) -> None:
        raise PREEMPTED

    with pytest.raises(GangFailure, match="pre-empted"):
        attempt_again(attempt, RestartBudget(1, 1), start_again)


def test_the_timeline_of_a_job_that_was_resumed_is_whole() -> None:
    watch = GangProgress(lambda line: None, lambda name: None)
    watch.begin_job(JobProgress("denoise", 5, 8, timeline_of(["warmup", "compute", "skip", "skip", "compute"])))
    watch.stage("denoise")
    watch.step(4, 8, "compute")  # from the checkpoint after four steps
    watch.step(5, 8, "skip")
    watch.stage("load")  # the ranks are started again, from the same checkpoint
    watch.stage("denoise")
    watch.step(4, 8, "compute")
    told = watch.job
    assert (told.phase, told.step, told.total_steps, told.timeline) == ("denoise", 5, 8, "wcssc")
    assert told.seconds_left is None, "after one step nothing is known"
    time.sleep(0.02)
    watch.step(5, 8, "skip")
    left = watch.job.seconds_left
    assert left is not None and 2 * 0.02 <= left < 20
    watch.begin_job(None)
    assert watch.job == JobProgress("start")


def test_steps_that_no_rank_could_report_are_unknown() -> None:
    """The ranks were lost after step 3, whose checkpoint was written, and the driver had heard of two."""
    watch = GangProgress(lambda line: None, lambda name: None)
    watch.stage("denoise")
    for index, action in enumerate(["warmup", "compute"]):
        watch.step(index, 8, action)
    watch.stage("load")
    watch.stage("denoise")
    watch.step(4, 8, "skip")
    watch.step(5, 8, "compute")
    assert watch.job.timeline == "wc??sc" and watch.job.skipped == 1
    drawn = watch.job.actions
    assert draw_timeline(drawn) == "■■??·■" and count_actions("steps", drawn) == "3 computed, 1 skipped, 2 unknown"


@pytest.mark.parametrize(("cfg", "seconds"), [(1, 3.0), (2, 2.0)])
def test_a_step_takes_as_long_as_its_branches(cfg: int, seconds: float) -> None:
    rows = [
        {"step": 0, "action": "warmup", "seconds": 1.0},
        {"step": 0, "action": "warmup", "seconds": 2.0},
        {"step": 1, "action": "skip", "seconds": 0.5},
        {"step": 1, "action": "skip", "seconds": 0.5},
        {"step": 2, "action": "skip", "seconds": 1.0},
        {"step": 2, "action": "compute", "seconds": 2.0},
        {"step": 3, "action": "compute", "seconds": None},
        {"step": 3, "action": "compute", "seconds": 2.0},
    ]
    report: dict[str, Any] = {"steps": rows, "layout": {"cfg": cfg}}
    assert step_seconds(report) == [
        ("computed", seconds),
        ("skipped", 1.0 if cfg == 1 else 0.5),
        ("computed", seconds),
    ]


def test_a_gang_makes_one_video_at_a_time() -> None:
    with pytest.raises(InvalidInput, match=r"parallel\.data is 2.*as many gangs"):
        Setup(str(CONFIG), ["parallel.data=2"], 2).job(2)
    job = Setup(str(CONFIG), ["runtime.device=cpu", "parallel=auto"], 2).job(2)
    assert job.tasks == () and job.degrees.cfg == 2 and job.notes


def test_what_the_configuration_leaves_open_or_has_under_old_names_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = SimpleNamespace(node_ids=("a", "a"))
    reservation = SimpleNamespace(bundles=lambda: bundles, ranks=2, resources={})
    monkeypatch.setattr("launch.cluster.loaded.Reservation", lambda *arguments: reservation)
    monkeypatch.setattr("launch.cluster.loaded.Gang", lambda *arguments: SimpleNamespace(load=lambda job: None))
    said: list[str] = []
    setup = Setup(str(CONFIG), ["runtime.device=cpu", "parallel=auto", "cache.gamma_max=2.0"], 2)
    watch: Any = None
    LoadedGang(setup, GangProgress(said.append, lambda name: None), watch).start()
    assert said[:2] == ["cache.gamma_max is now cache.estimator.gamma_max", "layout: cfg 2"]


class OnlyTheQueue:
    """In the place of what a server has of its gang, which none of these jobs comes to."""

    def __init__(self, queue: Queue) -> None:
        self.job = Setup(str(CONFIG), ["runtime.device=cpu"], 1).job(1)
        self.name = queue.register(1, self.job.model_path)
        self._queue = queue

    @property
    def asked(self) -> bool:
        """To end, once no job waits."""
        return all(job.state is not State.QUEUED for job in self._queue.jobs())

    def __getattr__(self, name: str) -> Any:
        assert name in ("ensure", "set_state", "ended", "begin_job", "over"), f"{name} is of a job that begins"
        return lambda *arguments: None


def test_a_job_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    """One that another version of Lockstep has submitted; the server takes the next one."""
    good = tiny_config("model.dtype=auto").model_dump(mode="json")
    whole = {**good, "cache": {**good["cache"], "quality": "high"}}  # as version 0.1 stored it, with a threshold
    unknown = {**good, "sampling": {**good["sampling"], "colour": "red"}}
    queue = Queue(tmp_path)
    queue.submit(
        [
            NewJob(Options(str(CONFIG), ("x",), output=tmp_path / f"{number}.mp4"), config)
            for number, config in enumerate((whole, unknown))
        ]
    )
    rest: Any = OnlyTheQueue(queue)
    log: list[str] = []
    Server(ServerParts(queue, rest, rest, rest, rest, rest, log.append, rest)).serve()
    first, second = queue.jobs()
    assert first.state is second.state is State.FAILED
    assert "another version of Lockstep (cache.threshold is 0.1, but cache.quality is high" in (first.error or "")
    assert "another version of Lockstep (sampling.colour" in (second.error or "")
    assert sum("failed" in line for line in log) == 2


def test_a_gang_takes_jobs_of_its_own_model_alone(tmp_path: Path) -> None:
    gang = Setup(str(CONFIG), ["runtime.device=cpu"], 1).job(1)
    queue = Queue(tmp_path)
    configs = [tiny_config("model.dtype=auto", *settings) for settings in ([], ["cache.method=none"])]
    configs.append(tiny_config("model.dtype=auto", "model.vae_dtype=bfloat16"))
    jobs = [
        NewJob(Options(str(CONFIG), ("x",), output=tmp_path / f"{i}.mp4"), config.model_dump(mode="json"))
        for i, config in enumerate(configs)
    ]
    assert [fits(queue.job(id), gang) for id in queue.submit(jobs)] == [True, True, False]


def test_a_signal_breaks_off_a_start_and_lets_work_end() -> None:
    stop = StopRequest()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    try:
        stop.listen()
        assert not stop.asked
        with pytest.raises(Interrupted, match="SIGTERM"), stop.interrupting():
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("it went on")
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(Interrupted, match="SIGTERM"), stop.interrupting():
            raise AssertionError("it began")
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
