"""The queue of jobs: what becomes of a job, who may say so, and what is refused."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidInput
from launch.jobs.options import Options
from launch.queue.records import GangState, GangWish, JobProgress, JobRecord, NewJob, State, Wish, timeline_of
from launch.queue.state_folder import state_folder
from launch.queue.store import LeaseLost, Queue
from tests.support.clock import Clock

LEASE = 30.0


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue(tmp_path / "state", clock)


def new_job(
    name: str = "a", folder: Path = Path("/videos"), max_restarts: int = 3, model: str = "/models/wan", **options: Any
) -> NewJob:
    config = {"model": {"path": model}, "ray": {"max_restarts": max_restarts}}
    chosen = {"prompts": (f"a circle, {name}",), "output": folder / f"{name}.mp4"} | options
    return NewJob(Options("wan.yaml", **chosen), config)


def fits(job: JobRecord) -> bool:
    return True


def claimed(queue: Queue, gang: str) -> JobRecord:
    job = queue.claim(gang, fits)
    assert job is not None
    return job


def forget(queue: Queue, gang: str) -> None:
    """Have a gang on a machine that cannot be seen from here, so that its lease alone tells that it is gone."""
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.execute("UPDATE gangs SET realm = 'elsewhere', pid = 1 WHERE id = ?", (gang.removeprefix("gang-"),))


def test_a_job_comes_back_as_it_was_submitted(queue: Queue, clock: Clock) -> None:
    job = new_job(seeds=(7,), image=Path("/a b/ä.png"), negative_prompt="\nx", latents=Path("/videos/a.safetensors"))
    odd = new_job("b", output=Path(os.fsdecode(b"/videos/\xff.mp4")))
    assert queue.submit([job, odd]) == [1, 2]
    record = queue.job(1)
    assert record.options == job.options
    assert record.config == job.config
    assert queue.job(2).options == odd.options
    assert (record.state, record.wish, record.submitted) == (State.QUEUED, Wish.RUN, 1000.0)
    assert (record.started, record.ended, record.attempts, record.gang, record.progress) == (None, None, 0, None, None)


def test_a_good_end(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job("a"), new_job("b")])
    gang = queue.register(4, "/models/wan")
    clock.now = 1010.0
    job = claimed(queue, gang)
    assert (job.id, job.state, job.attempts, job.gang, job.started) == (1, State.RUNNING, 1, gang, 1010.0)
    told = JobProgress("denoise step 3", 4, 8, timeline_of(["warmup", "compute", "skip", "skip"]), 2.5)
    queue.progress(1, 1, told)
    queue.count_restart(1, 1)
    queue.count_restart(1, 1, preempted=True)
    running = queue.job(1)
    assert running.progress == told and told.timeline == "wcss" and told.skipped_share == 0.5
    assert told.actions == ["warmup", "compute", "skip", "skip"]
    assert (running.restarts, running.preemptions) == (1, 1)
    clock.now = 1025.0
    queue.finish(1, 1, State.SUCCEEDED)
    done = queue.job(1)
    assert (done.state, done.started, done.ended, done.error, done.gang) == (
        State.SUCCEEDED,
        1010.0,
        1025.0,
        None,
        gang,
    )
    assert claimed(queue, gang).id == 2
    assert queue.claim(gang, fits) is None


def test_the_oldest_that_fits_goes_first(queue: Queue) -> None:
    queue.submit([new_job("a"), new_job("b"), new_job("c")])
    gang = queue.register(1, "m")
    queue.wish(2, Wish.PAUSE)
    third = queue.claim(gang, lambda job: job.id > 1)
    assert third is not None and third.id == 3, "the second is paused"
    assert queue.job(2).described_state == "queued (paused)"
    queue.wish(2, Wish.RUN)
    assert [claimed(queue, gang).id, claimed(queue, gang).id] == [1, 2]


def test_what_is_given_back_waits_again(queue: Queue) -> None:
    queue.submit([new_job()])
    gang = queue.register(1, "m")
    claimed(queue, gang)
    queue.progress(1, 1, JobProgress("denoise step 1", 2, 8, "wc"))
    queue.release(1, 1)
    waiting = queue.job(1)
    assert (waiting.state, waiting.started, waiting.gang, waiting.attempts) == (State.QUEUED, None, None, 1)
    assert waiting.progress is not None and waiting.progress.step == 2
    assert claimed(queue, gang).attempts == 2


def test_the_gang_hears_what_the_user_wants(queue: Queue) -> None:
    queue.submit([new_job()])
    gang = queue.register(1, "m")
    claimed(queue, gang)
    assert queue.wish_of(1, 1) is Wish.RUN
    queue.wish(1, Wish.PAUSE)
    assert (queue.wish_of(1, 1), queue.job(1).described_state) == (Wish.PAUSE, "running (pausing)")
    queue.release(1, 1)
    assert queue.job(1).described_state == "queued (paused)"
    assert queue.claim(gang, fits) is None
    queue.wish(1, Wish.RUN)
    claimed(queue, gang)
    queue.wish(1, Wish.CANCEL)
    assert (queue.wish_of(1, 2), queue.job(1).described_state) == (Wish.CANCEL, "running (cancelling)")
    with pytest.raises(InvalidInput, match="Job 1 is being cancelled"):
        queue.wish(1, Wish.RUN)
    queue.finish(1, 2, State.CANCELLED)
    assert queue.job(1).described_state == "cancelled"


def test_what_waits_is_cancelled_at_once(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job("a"), new_job("b")])
    queue.wish(2, Wish.PAUSE)
    clock.now = 1005.0
    queue.wish(1, Wish.CANCEL)
    queue.wish(2, Wish.CANCEL)
    assert [(job.state, job.started, job.ended) for job in queue.jobs()] == [(State.CANCELLED, None, 1005.0)] * 2
    assert queue.claim(queue.register(1, "m"), fits) is None


def test_a_cancelled_job_that_is_given_back_ends(queue: Queue) -> None:
    """Nobody would ever take it from the queue."""
    queue.submit([new_job()])
    claimed(queue, queue.register(1, "m"))
    queue.wish(1, Wish.CANCEL)
    queue.release(1, 1)
    assert queue.job(1).state is State.CANCELLED


@pytest.mark.parametrize(
    ("state", "words"), [(State.SUCCEEDED, "succeeded"), (State.FAILED, "failed"), (State.CANCELLED, "been cancelled")]
)
def test_what_is_finished_stays_as_it_is(state: State, words: str, queue: Queue) -> None:
    queue.submit([new_job()])
    claimed(queue, queue.register(1, "m"))
    queue.finish(1, 1, state, "out of memory")
    for wish, done in ((Wish.CANCEL, "cancelled"), (Wish.PAUSE, "paused"), (Wish.RUN, "unpaused")):
        with pytest.raises(InvalidInput, match=f"Job 1 has already {words}: it cannot be {done}"):
            queue.wish(1, wish)
    assert queue.job(1).state is state and queue.job(1).error == "out of memory"


def test_no_such_job(queue: Queue) -> None:
    queue.submit([new_job()])
    for id in (0, -1, 2, 10**30):
        with pytest.raises(InvalidInput, match=f"There is no job {id} in"):
            queue.job(id)
        with pytest.raises(InvalidInput, match=f"There is no job {id} in"):
            queue.wish(id, Wish.CANCEL)


def test_only_the_attempt_that_runs_may_speak(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job()])
    first = queue.register(1, "m")
    claimed(queue, first)
    forget(queue, first)
    clock.now += LEASE + 1
    assert [job.state for job in queue.requeue_lost(LEASE)] == [State.QUEUED]
    second = queue.register(1, "m")
    assert second != first, "or the new one would own the job of the old one"
    for claims in (0, 1):  # while the job waits, and once another gang has it
        if claims:
            assert claimed(queue, second).attempts == 2
        before = queue.job(1)
        for write in (
            lambda: queue.progress(1, 1, JobProgress("load")),
            lambda: queue.count_restart(1, 1),
            lambda: queue.wish_of(1, 1),
            lambda: queue.release(1, 1),
            lambda: queue.finish(1, 1, State.SUCCEEDED),
            lambda: queue.renew_lease(first),
            lambda: queue.set_gang_state(first, GangState.READY),
            lambda: queue.claim(first, fits),
        ):
            with pytest.raises(LeaseLost):
                write()
        assert queue.job(1) == before
    queue.finish(1, 2, State.SUCCEEDED)
    with pytest.raises(LeaseLost):
        queue.finish(1, 2, State.FAILED)


def test_a_lease_that_is_renewed_lasts(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job()])
    gang = queue.register(1, "m")
    forget(queue, gang)
    claimed(queue, gang)
    for renew in (lambda: queue.renew_lease(gang), lambda: queue.set_gang_state(gang, GangState.BUSY)):
        clock.now += LEASE - 1
        renew()
        assert queue.requeue_lost(LEASE) == []
    clock.now += LEASE - 1
    assert queue.requeue_lost(LEASE) == []
    clock.now += 2
    assert [job.id for job in queue.requeue_lost(LEASE)] == [1]
    assert queue.gangs() == []


def test_a_job_that_outlives_no_gang_is_given_up(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job(max_restarts=1)])
    for losses in (1, 2, 3):
        gang = queue.register(1, "m")
        forget(queue, gang)
        assert claimed(queue, gang).attempts == losses
        clock.now += LEASE + 1
        (job,) = queue.requeue_lost(LEASE)
        assert job.losses == losses
        assert job.state is (State.FAILED if losses == 3 else State.QUEUED)
    assert job.error is not None and job.error.startswith("3 gangs were lost") and gang in job.error
    assert job.ended == clock.now


def test_a_cancelled_job_of_a_lost_gang_ends(queue: Queue, clock: Clock) -> None:
    queue.submit([new_job("a", max_restarts=0), new_job("b")])
    gang = queue.register(1, "m")
    forget(queue, gang)
    claimed(queue, gang), claimed(queue, gang)
    queue.wish(1, Wish.CANCEL)
    queue.wish(2, Wish.PAUSE)
    clock.now += LEASE + 1
    assert [job.described_state for job in queue.requeue_lost(LEASE)] == ["cancelled", "queued (paused)"]


def test_a_gang_of_this_machine_is_gone_with_its_process(queue: Queue) -> None:
    """Before its lease runs out; also while its parent has not looked at it yet."""
    queue.submit([new_job()])
    script = "from launch.queue.store import Queue; from pathlib import Path; import os, sys\n"
    script += "queue = Queue(Path(sys.argv[1])); queue.claim(queue.register(1, 'm'), lambda job: True)\n"
    script += "os.kill(os.getpid(), 9)"
    with subprocess.Popen([sys.executable, "-c", script, str(queue.folder)]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and still a zombie
        own = Queue(queue.folder).register(1, "m")
        assert queue.job(1).state is State.RUNNING
        assert [gang.alive for gang in Queue(queue.folder).gangs()] == [False, True]
        assert [job.id for job in queue.requeue_lost(float("inf"))] == [1]
    assert [gang.name for gang in queue.gangs()] == [own]


def test_a_pid_that_was_used_again_is_another_process(queue: Queue) -> None:
    gang = queue.register(1, "m")
    assert queue.requeue_lost(LEASE) == [] and len(queue.gangs()) == 1
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.execute("UPDATE gangs SET birth = birth - 1")
    queue.requeue_lost(LEASE)
    assert queue.gangs() == [], f"{gang} had this pid before us"


def test_gangs_say_what_they_do_and_hear_when_to_end(queue: Queue, clock: Clock) -> None:
    first, second = queue.register(4, "/models/wan"), queue.register(2, "org/name")
    clock.now = 1003.0
    queue.set_gang_state(first, GangState.READY, "job 3 was too much")
    gang, other = queue.gangs()
    assert (gang.name, gang.pid, gang.ranks, gang.model) == (first, os.getpid(), 4, "/models/wan")
    assert (gang.state, gang.error, gang.registered, gang.beat) == (
        GangState.READY,
        "job 3 was too much",
        1000.0,
        1003.0,
    )
    assert (other.state, other.error, other.wish) == (GangState.STARTING, None, GangWish.RUN)
    queue.submit([new_job()])
    assert queue.ask_down(first) == [first]
    assert (queue.renew_lease(first), queue.renew_lease(second)) == (GangWish.DOWN, GangWish.RUN)
    assert queue.claim(first, fits) is None, "one that shall end takes no job"
    assert claimed(queue, second).id == 1
    assert queue.ask_down() == [first, second]
    with pytest.raises(InvalidInput, match="No gang here is named gang-9: there are gang-1, gang-2"):
        queue.ask_down("gang-9")
    queue.unregister(second)
    assert queue.job(1).state is State.QUEUED, "it took no leave of its job"
    queue.unregister(first)
    assert queue.ask_down() == []
    with pytest.raises(InvalidInput, match="No gang here is named gang-1: there is none"):
        queue.ask_down("gang-1")


def test_no_two_jobs_write_the_same_file(queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    twice = [new_job("a", tmp_path), new_job("b", tmp_path), new_job("a", tmp_path / "link")]
    with pytest.raises(InvalidInput, match=r"a\.mp4 would be written twice"):
        queue.submit(twice)
    assert queue.jobs() == [], "all or none"
    assert queue.submit(twice[:2]) == [1, 2]
    with pytest.raises(InvalidInput, match=r"a\.mp4 will be written by job 1, which is not finished"):
        queue.submit(twice[2:])
    with pytest.raises(InvalidInput, match=r"b\.json will be written by job 2"):
        queue.submit([new_job("c", tmp_path, report=tmp_path / "b.json")])
    claimed(queue, queue.register(1, "m"))
    with pytest.raises(InvalidInput, match="job 1"):
        queue.submit(twice[:1])
    queue.finish(1, 1, State.SUCCEEDED)
    queue.wish(2, Wish.CANCEL)
    assert queue.submit(twice[:2]) == [3, 4], "finished jobs write nothing any more"


def test_folders_and_files_that_are_no_queue(tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        sentences = []
        for use in (lambda: Queue(folder).jobs(), lambda: Queue(folder).submit([new_job()])):
            with pytest.raises(InvalidInput) as caught:
                use()
            sentences.append(str(caught.value))
        assert all(str(folder) in text and text.endswith(".") for text in sentences)
        return sentences[-1]

    with pytest.raises(InvalidInput, match=r"There is no queue in .*nowhere"):
        Queue(tmp_path / "nowhere").jobs()
    for use in (lambda: Queue(tmp_path / "nowhere").wish(1, Wish.CANCEL), Queue(tmp_path / "nowhere").ask_down):
        with pytest.raises(InvalidInput, match="There is no queue in"):
            use()
    assert not (tmp_path / "nowhere").exists(), "looking makes nothing"

    (tmp_path / "file").write_text("")
    assert "cannot be" in said(tmp_path / "file" / "state")

    damaged = Queue(tmp_path / "damaged")
    damaged.submit([new_job()])
    file = tmp_path / "damaged" / "queue.db"
    whole = file.read_bytes()
    file.write_bytes(b"no database at all" * 1000)
    assert "is damaged or no queue" in said(tmp_path / "damaged")
    file.write_bytes(whole[:200] + b"\xff" * (len(whole) - 200))
    assert "is damaged or no queue" in said(tmp_path / "damaged")

    file.write_bytes(whole)
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 7")
    assert "another version of Lockstep (its tables have version 7" in said(tmp_path / "damaged")

    file.unlink()
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE recipes (id)")
    assert "another version" in said(tmp_path / "damaged")
    file.unlink()
    file.write_bytes(b"")  # a process was killed before its first commit
    with pytest.raises(InvalidInput, match="There is no queue"):
        damaged.jobs()
    assert damaged.submit([new_job()]) == [1]


def test_what_a_power_cut_and_a_network_file_system_ask_for(queue: Queue) -> None:
    queue.submit([new_job()])
    with queue._database.changing() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 3, "EXTRA"
    assert [path.name for path in queue.folder.iterdir()] == ["queue.db"]


def test_a_folder_that_may_not_be_written_to() -> None:
    with pytest.raises(InvalidInput, match="/proc/lockstep"):
        Queue(Path("/proc/lockstep")).submit([new_job()])
    with pytest.raises(InvalidInput, match=r"/proc/queue\.db cannot be used"):
        Queue(Path("/proc")).submit([new_job()])


def test_where_the_queue_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOCKSTEP_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_folder(None) == tmp_path / "home/.local/state/lockstep"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder(None) == tmp_path / "home/.local/state/lockstep"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_folder(None) == Path("/var/state/lockstep")
    monkeypatch.setenv("LOCKSTEP_STATE", "~/jobs")
    assert state_folder(None) == tmp_path / "home/jobs"
    assert state_folder(Path("other/../jobs")) == tmp_path / "jobs"
    with pytest.raises(InvalidInput, match="home folder"):
        state_folder(Path("~nobody-of-this-name/jobs"))
