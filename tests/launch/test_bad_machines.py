"""One bad machine does not fail the queue: its jobs go to others, it waits, and it ends. And jobs that are retried."""

import time
from pathlib import Path

import pytest

from engine.checkpoints.names import step_folder
from engine.errors import InvalidInput
from launch.cluster.health import MachineBad, MachineHealth
from launch.gang.monitor import GangFailure
from launch.jobs.folder import JobFolder
from launch.jobs.leftovers import describe_leftovers
from launch.jobs.options import Options
from launch.process.failures import Failure, describe
from launch.queue.records import JobRecord, NewJob, State, Wish
from launch.queue.store import Queue
from tests.support.clock import Clock
from tests.support.served import served
from tests.support.typed import Command


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue(tmp_path / "state", clock)


def new_job(name: str = "a", folder: Path = Path("/videos")) -> NewJob:
    config = {"model": {"path": "/models/wan"}, "ray": {"max_restarts": 3}, "sampling": {"steps": 8}}
    return NewJob(Options("wan.yaml", ("x",), output=folder / f"{name}.mp4"), config)


def claimed(queue: Queue, gang: str) -> JobRecord | None:
    return queue.claim(gang, lambda job: True)


def give_back(queue: Queue, gang: str, reason: str) -> None:
    job = claimed(queue, gang)
    assert job is not None
    queue.give_back(job.id, job.attempts, gang, reason)


def of_rank(error: Exception) -> GangFailure:
    return GangFailure(describe(error, 0, "denoise step 3"), lost=False)


FULL = OSError(28, "No space left on device")


def test_a_job_that_a_gang_gave_back_goes_to_another(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job("a"), new_job("b")])
    first, second = queue.register(1, "m"), queue.register(1, "m")
    give_back(queue, first, "no room")
    returned = queue.job(1)
    assert (returned.state, returned.gang, returned.losses) == (State.QUEUED, None, 0)
    assert [(each.gang, each.at, each.reason) for each in returned.returns] == [(first, 1000.0, "no room")]
    other = claimed(queue, first)
    assert other is not None and other.id == 2, "the same gang leaves it to others"
    queue.release(2, 1)
    taken = claimed(queue, second)
    assert taken is not None and (taken.id, taken.attempts) == (1, 2), "at once"


def test_a_gang_alone_takes_its_returned_job_again_after_all_others(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job("a")])
    gang = queue.register(1, "m")
    waits = []
    for _ in range(2):
        give_back(queue, gang, "no room")
        began = clock.now
        while (job := claimed(queue, gang)) is None:
            clock.now += 1
        waits.append(clock.now - began)
        queue.release(1, job.attempts)
    assert waits == [30.0, 60.0]
    queue.submit([new_job("b")])
    fresh = claimed(queue, gang)
    assert fresh is not None and fresh.id == 2


def test_a_job_that_three_machines_could_not_run_fails_with_all_reasons(queue: Queue) -> None:
    queue.submit([new_job()])
    gangs = [queue.register(1, "m") for _ in range(3)]
    for gang, reason in zip(gangs, ("no room.", "a broken card", "no model"), strict=True):
        assert queue.job(1).state is State.QUEUED
        give_back(queue, gang, reason)
    failed = queue.job(1)
    assert failed.state is State.FAILED and failed.error is not None
    assert all(text in failed.error for text in (*gangs, "no room;", "a broken card", "no model"))


def test_one_gang_cannot_give_a_job_back_for_ever(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job()])
    gang = queue.register(1, "m")
    for _ in range(9):
        clock.now += 10_000
        give_back(queue, gang, "no room")
    assert queue.job(1).state is State.FAILED
    assert "1 gang gave this job back" in (queue.job(1).error or "")


def test_a_cancelled_job_that_is_given_back_ends(queue: Queue) -> None:
    queue.submit([new_job()])
    gang = queue.register(1, "m")
    job = claimed(queue, gang)
    assert job is not None
    queue.wish(1, Wish.CANCEL)
    queue.give_back(1, 1, gang, "no room")
    assert queue.job(1).state is State.CANCELLED


def test_a_machine_waits_longer_after_each_failure_and_ends_after_three(clock: Clock) -> None:
    health = MachineHealth(clock)
    assert health.seconds_to_wait == 0
    assert health.did_badly("no room") == health.seconds_to_wait == 15
    clock.now += 15
    assert health.seconds_to_wait == 0
    assert health.did_badly("no room") == 60
    health.did_well()
    assert health.seconds_to_wait == 0
    health.did_badly("no room"), health.did_badly("no room")
    with pytest.raises(MachineBad, match=r"3 jobs in a row.*\(no room; a broken card\)"):
        health.did_badly("a broken card")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.cluster.health._FIRST_PAUSE_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_full_disk_fails_no_job_and_ends_the_gang(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        ids = gang.submit("a", "b", "c", "d")
        gang.ranks.failures = [of_rank(FULL) for _ in range(4)]
        gang.start()
        gang.await_that(lambda: gang.error)
        assert isinstance(gang.error, MachineBad) and "No space left" in str(gang.error)
        jobs = [gang.user.job(id) for id in ids]
        assert [job.state for job in jobs] == [State.QUEUED] * 4
        assert [len(job.returns) for job in jobs] == [1, 1, 1, 0], "another job each time"
        assert gang.ranks.starts == 3, "ranks that raised are out of step"
    assert sum("is given back" in line for line in gang.log) == 3


@pytest.mark.usefixtures("quick")
def test_a_machine_that_works_again_begins_a_new_row(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        ids = gang.submit("a", "b", "c", "d", "e")
        bad = of_rank(RuntimeError("CUDA error: uncorrectable ECC error encountered"))
        gang.ranks.failures = [bad, bad]
        gang.start()
        for id in ids[2:]:
            gang.await_job(id, State.SUCCEEDED)
        assert gang.error is None
        assert [gang.user.job(id).state for id in ids[:2]] == [State.QUEUED] * 2


@pytest.mark.usefixtures("quick")
def test_what_is_the_jobs_fault_fails_it_at_once(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        raised, good = gang.submit("a", "b")
        gang.ranks.failures = [of_rank(RuntimeError("Activations are not finite"))]
        gang.start()
        failed = gang.await_job(raised, State.FAILED)
        assert "not finite" in (failed.error or "") and failed.returns == []
        gang.await_job(good, State.SUCCEEDED)


@pytest.mark.usefixtures("quick")
def test_a_rank_whose_machine_lacks_something_refuses_no_job_for_good(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        first, second = gang.submit("a", "b")
        lacking = Failure(0, "start", "There is no model folder.", 0, invalid_input=True, machines=True)
        gang.ranks.refusals = [GangFailure(lacking, lost=False)]
        gang.start()
        gang.await_job(second, State.SUCCEEDED)
        assert gang.user.job(first).state is State.QUEUED and gang.ranks.starts == 0
        shown = gang.await_that(lambda: gang.user.job(first).returns)
        assert shown[0].reason == "There is no model folder."


def test_a_missing_model_folder_is_found_before_the_ranks_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.cluster.health._FIRST_PAUSE_SECONDS", 0.01)
    with served(tmp_path) as gang:
        (job,) = gang.submit("a")
        model = Path(gang.user.job(job).model)
        monkeypatch.setattr(Path, "is_dir", lambda self, real=Path.is_dir: self != model and real(self))
        gang.start()
        returned = gang.await_that(lambda: gang.user.job(job).returns)
        assert "There is no model folder" in returned[0].reason
        assert gang.user.job(job).state is State.QUEUED


# jobs that are retried


def finish(queue: Queue, state: State, kept: str | None = None) -> None:
    job = claimed(queue, queue.register(1, "m"))
    assert job is not None
    queue.finish(job.id, job.attempts, state, "why" if state is State.FAILED else None, kept)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_retried_job_begins_again_with_its_checkpoints(state: State, queue: Queue) -> None:
    queue.submit([new_job()])
    finish(queue, state, "a checkpoint")
    queue.retry(1)
    job = queue.job(1)
    assert (job.state, job.wish, job.error, job.kept, job.ended) == (State.QUEUED, Wish.RUN, None, None, None)
    again = claimed(queue, queue.register(1, "m"))
    assert again is not None and again.attempts == 2, "a late word of the first attempt must not count for it"
    with pytest.raises(InvalidInput, match="will be written by job 1"):
        queue.submit([new_job()])


def test_only_what_has_ended_badly_is_retried(queue: Queue) -> None:
    queue.submit([new_job("a"), new_job("b")])
    with pytest.raises(InvalidInput, match="Job 1 is queued: only a job that has failed or was cancelled"):
        queue.retry(1)
    gang = queue.register(1, "m")
    claimed(queue, gang)
    with pytest.raises(InvalidInput, match="Job 1 is running"):
        queue.retry(1)
    queue.finish(1, 1, State.SUCCEEDED)
    with pytest.raises(InvalidInput, match="Job 1 has succeeded"):
        queue.retry(1)
    with pytest.raises(InvalidInput, match="There is no job 9"):
        queue.retry(9)


def test_a_retried_job_takes_no_file_of_another(queue: Queue) -> None:
    queue.submit([new_job("a")])
    finish(queue, State.FAILED)
    queue.submit([new_job("a")])
    with pytest.raises(InvalidInput, match=r"a\.mp4 will be written by job 2"):
        queue.retry(1)
    finish(queue, State.SUCCEEDED)
    with pytest.raises(InvalidInput, match=r"a\.mp4 was made by job 2 meanwhile"):
        queue.retry(1)


def test_what_a_failed_job_has_left_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options("c.yaml", ("x",), output=tmp_path / "a.mp4", fallback=tmp_path / "fallback")
    assert describe_leftovers(options, 8) is None
    folder, fallback = (each.path for each in JobFolder.all_of(options))
    whole, half = ("rank-0-of-2", "rank-1-of-2"), ("rank-0-of-2",)
    for where, steps, files in ((folder, 2, whole), (folder, 4, half), (fallback, 1, whole)):
        step = step_folder(where / "0", steps)
        step.mkdir(parents=True)
        for name in files:
            (step / f"{name}.{64 * '0'}.safetensors").touch()
    assert describe_leftovers(options, 8) == f"a checkpoint after step 2 of 8 in {folder}", "the newest whole one"
    assert describe_leftovers(options, 2) == f"the final latents in {folder}, so that only decoding is left"
    for name in whole:
        step = step_folder(fallback / "0", 4)
        step.mkdir(exist_ok=True)
        (step / f"{name}.{64 * '0'}.safetensors").touch()
    assert describe_leftovers(options, 8) == f"a checkpoint after step 4 of 8 in {fallback}"


def test_how_to_go_on_is_shown_and_works(queue: Queue, typed: Command) -> None:
    queue.submit([new_job("a"), new_job("b"), new_job("c")])
    finish(queue, State.FAILED, "a checkpoint after step 2 of 8 in /videos/a.checkpoint")
    finish(queue, State.FAILED)
    give_back(queue, queue.register(1, "m"), "no room")
    _, out, _ = typed("jobs", "1")
    assert "kept       a checkpoint after step 2 of 8 in /videos/a.checkpoint: go on with lockstep retry 1\n" in out
    assert "kept       nothing: lockstep retry 2 begins anew" in typed("jobs", "2")[1]
    assert "returned   by gang-3 on " in typed("jobs", "3")[1]
    assert "kept: a checkpoint" in typed("watch", "1")[1]
    code, out, err = typed("retry", "1", "3", "2")
    assert (code, out) == (2, "job 1: queued\njob 2: queued\n")
    assert err == "lockstep: Job 3 is queued: only a job that has failed or was cancelled can be retried.\n"


def test_a_machine_without_the_model_can_submit(
    tmp_path: Path, typed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.small_model import CONFIG

    arguments = ["submit", str(CONFIG), "--prompt=x", "--set=model.path=/models/nowhere", f"--output={tmp_path}/x.mp4"]
    code, _, err = typed(*arguments)
    assert code == 2 and "There is no model folder /models/nowhere" in err
    assert typed(*arguments, "--model-check")[0] == 2
    code, out, _ = typed(*arguments, "--no-model-check")
    assert (code, out) == (0, f"job 1: {tmp_path}/x.mp4\n")
    assert typed(*arguments, "--no-model-check", "--output=/proc/x.mp4")[0] == 2


def test_watching_goes_on_while_the_queue_is_away(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from launch.screens import watch
    from tests.support.queue_faults import away

    queue.submit([new_job()])
    stream = io.StringIO()
    look, looks = queue.job, []

    def look_or_not(id: int) -> JobRecord:
        looks.append(time.monotonic())
        if 2 <= len(looks) < 5:
            with away(queue.folder):
                return look(id)
        if len(looks) == 5:
            queue.wish(1, Wish.CANCEL)
        return look(id)

    monkeypatch.setattr(queue, "job", look_or_not)
    watch.watch(queue, 1, stream, look_seconds=0.01)
    lines = stream.getvalue().splitlines()
    assert sum("It is tried again" in line for line in lines) == sum("can be used again" in line for line in lines) == 1
    assert lines[-1] == "job 1 cancelled"
