"""A gang whose queue is locked, full or away: it goes on as long as its lease allows, and loses and doubles nothing."""

import time
from pathlib import Path

import pytest

from launch.cluster.outage import Outage
from launch.cluster.progress import GangProgress
from launch.queue.records import State
from launch.queue.store import Queue
from launch.queue.trouble import QueueAway
from tests.support.queue_faults import away, full, locked
from tests.support.served import SECONDS, served

AGAIN = "the queue can be used again, after"


def lines(log: list[str], words: str) -> list[str]:
    return [line for line in log if words in line]


def test_an_outage_is_said_once_and_tried_again_with_growing_pauses() -> None:
    said: list[str] = []
    now = [0.0]
    outage = Outage(said.append, lambda: now[0])
    outage.over()
    pauses = []
    while now[0] < 1000:
        pauses.append(outage.failed(QueueAway("It is locked.")))
        now[0] += pauses[-1]
    assert 0.25 <= pauses[0] <= 0.5 and max(pauses) <= 8 and min(pauses[-50:]) >= 4
    assert len(set(pauses)) > 50, "with jitter"
    assert len(said) == 2 and said[0].startswith("It is locked. It is tried again")
    assert "for 60" in said[1], "once every ten minutes"
    outage.over()
    assert said[2].startswith(AGAIN)
    outage.failed(QueueAway("It is locked."))
    assert len(said) == 4, "a new one is said anew"


def test_a_gang_learns_how_early_it_has_to_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("launch.cluster.progress.time.monotonic", lambda: now[0])
    progress = GangProgress(lambda line: None, lambda name: None)
    progress.stage("denoise")
    unknown = progress.seconds_to_pause
    assert 20 <= unknown <= 30
    for index, seconds in enumerate((9.0, 2.0, 3.0)):  # the first is no measure
        now[0] += seconds
        progress.step(index, 9, "compute")
    quick = progress.seconds_to_pause
    assert 2 * 3 < quick < 2 * 3 + 9
    progress.saved(6.0)
    assert progress.seconds_to_pause == pytest.approx(quick + 9.0)
    now[0] += 10.0  # a step that is slower than any before
    assert progress.seconds_to_pause > 2 * 10 + 9


def test_ranks_work_on_while_the_queue_is_locked(tmp_path: Path) -> None:
    """And are watched: no look waits for the lock. Nothing is restarted, nothing made twice."""
    with served(tmp_path, steps=40) as gang:
        (job,) = gang.submit("a")
        gang.start()
        gang.await_that(lambda: gang.ranks.done)
        with locked(gang.queue.folder):
            gang.await_that(lambda: gang.ranks.made)
        done = gang.await_job(job, State.SUCCEEDED)
        assert (done.attempts, done.losses, gang.ranks.starts, len(gang.ranks.made)) == (1, 0, 0, 1)
        assert gang.ranks.calm < 0.1, "a look takes less than the least wait for a lock"
        assert done.progress is not None and done.progress.step == 40, "what it was when it ended"
    assert len(lines(gang.log, "locked")) == len(lines(gang.log, AGAIN)) == 1


@pytest.mark.parametrize("fault", [locked, away])
def test_a_job_pauses_in_time_and_goes_on_from_there(
    fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease would end long before the queue is back, and before the job's last step."""
    monkeypatch.setattr("launch.cluster.progress._TO_HEAR_SECONDS", 0.8)
    monkeypatch.setattr("launch.cluster.progress._UNKNOWN_STEP_SECONDS", 0.1)
    with served(tmp_path, steps=400, lease_seconds=3.0) as gang:
        (job,) = gang.submit("a")
        gang.start()
        gang.await_that(lambda: gang.ranks.done)
        with fault(gang.queue.folder):  # type: ignore[operator]
            (step,) = gang.await_that(lambda: gang.ranks.paused_at)
            assert gang.registration.seconds_left > 0.5, "before the lease ends"
            gang.ranks.steps = step + 5
        gang.await_job(job, State.SUCCEEDED)
        assert step > 0 and gang.ranks.paused_at == [step]
        assert len(gang.ranks.made) == 1 and gang.ranks.starts == 0
    assert len(lines(gang.log, "its lease ends in")) == 1


def test_a_full_disk_of_the_queue_loses_no_result(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        (job,) = gang.submit("a")
        with pytest.MonkeyPatch.context() as patch:
            refuse = [True]
            finish = gang.queue.finish

            def finish_or_not(*arguments: object) -> None:
                if refuse:
                    raise QueueAway("The disk is full.")
                finish(*arguments)  # type: ignore[arg-type]

            patch.setattr(gang.queue, "finish", finish_or_not)
            gang.start()
            gang.await_that(lambda: lines(gang.log, "The disk is full."))
            assert gang.user.job(job).state is State.RUNNING
            refuse.clear()
            assert gang.await_job(job, State.SUCCEEDED).attempts == 1
        assert len(gang.ranks.made) == 1
    assert lines(gang.log, AGAIN)


def test_a_commit_that_was_made_although_it_failed_is_no_loss(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        (job,) = gang.submit("a")
        finish, claim, failures = gang.queue.finish, gang.queue._take, ["finish", "claim"]

        def fail_after(name: str, done: object) -> object:
            if name in failures:
                failures.remove(name)
                raise QueueAway("disk I/O error.")
            return done

        gang.queue.finish = lambda *a: fail_after("finish", finish(*a))  # type: ignore[method-assign, assignment]
        gang.queue._take = lambda *a: fail_after("claim", claim(*a))  # type: ignore[method-assign, assignment]
        gang.start()
        done = gang.await_job(job, State.SUCCEEDED)
        gang.await_that(lambda: lines(gang.log, "job 1 succeeded"))
        assert failures == [] and done.attempts == 2 and len(gang.ranks.made) == 1


def test_a_result_is_not_recorded_for_a_job_that_another_gang_has(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        (job,) = gang.submit("a")
        other = Queue(gang.queue.folder)

        def take_away() -> None:
            other.unregister(gang.registration.name)
            assert other.claim(other.register(1, "m"), lambda job: True)

        gang.ranks.after = take_away
        gang.start()
        gang.await_that(lambda: lines(gang.log, "attempt 1 at job 1 is over"))
        assert other.job(job).attempts == 2 and other.job(job).state is State.RUNNING
        gang.await_that(lambda: gang.registration.name == "gang-3")
        assert gang.ranks.starts == 0, "ranks without a job need not be loaded again"


def test_an_idle_gang_waits_for_its_queue_and_says_so_once(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        gang.submit()
        gang.start()
        with away(gang.queue.folder):
            gang.await_that(lambda: lines(gang.log, "It is tried again"))
            time.sleep(0.6)
            assert not gang.queue.folder.exists()
        (job,) = gang.submit("a")
        gang.await_job(job, State.SUCCEEDED)
        assert gang.registration.name == "gang-1" and gang.error is None
    assert len(gang.log) < 8, gang.log


def test_a_gang_whose_queue_is_away_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        gang.submit()
        gang.start()
        with away(gang.queue.folder):
            gang.await_that(lambda: lines(gang.log, "It is tried again"))
            began = time.monotonic()
            gang.end()
            assert time.monotonic() - began < SECONDS / 2 and gang.error is None
        assert lines(gang.log, "could not take leave of the queue")


def test_a_queue_that_a_newer_version_has_taken_over_ends_the_gang(tmp_path: Path) -> None:
    with served(tmp_path) as gang:
        gang.submit()
        gang.start()
        with gang.queue._database.changing() as db:
            db.execute("PRAGMA user_version = 7")
        gang.await_that(lambda: gang.error)
        assert "another version of Lockstep" in str(gang.error)


def test_a_full_queue_holds_up_no_lease(tmp_path: Path) -> None:
    """Renewing changes a page in place, which a full disk with a journal may refuse: the gang goes on."""
    with served(tmp_path, steps=30) as gang:
        (job,) = gang.submit("a")
        gang.start()
        gang.await_that(lambda: gang.ranks.done)
        with full():
            gang.await_that(lambda: gang.ranks.made)
        assert gang.await_job(job, State.SUCCEEDED).attempts == 1
