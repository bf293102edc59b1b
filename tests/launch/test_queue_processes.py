"""The queue between processes that work on it at the same time, and of which some are killed."""

import itertools
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.jobs.options import Options
from launch.queue.records import NewJob, State, Wish
from launch.queue.store import LeaseLost, Queue

JOBS, GANGS, KILLS = 50, 5, 2
_processes = multiprocessing.get_context("fork")  # imports nothing anew; the queue holds nothing open


def jobs(count: int, prompt: str = "a circle") -> list[NewJob]:
    config = {"model": {"path": "m"}, "ray": {"max_restarts": 1000}}
    return [NewJob(Options("c", (prompt,), output=Path(f"/v/{i}.mp4")), config) for i in range(count)]


Start = Callable[..., BaseProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a function with its arguments in a process of its own, which ends with the test."""
    started: list[BaseProcess] = []

    def start_one(target: Callable[..., None], *args: object) -> BaseProcess:
        started.append(_processes.Process(target=target, args=args))
        started[-1].start()
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.join()


def serve(folder: Path, log: Path, seed: int) -> None:
    """A gang that ends with the queue. Each job that it takes and each that it ends is a line in the log."""
    queue, chance = Queue(folder), random.Random(seed)
    gang = queue.register(1, "m")
    with log.open("a", buffering=1) as file:
        while True:
            queue.renew_lease(gang)
            job = queue.claim(gang, lambda job: True)
            if job is None:
                if all(each.state.is_final for each in queue.jobs()):
                    return
                time.sleep(0.02)
                queue.requeue_lost()
                continue
            file.write(f"begin {job.id} {job.attempts} {time.monotonic_ns()}\n")
            time.sleep(chance.uniform(0, 0.01))
            wish = queue.wish_of(job.id, job.attempts)
            file.write(f"end {job.id} {job.attempts} {time.monotonic_ns()}\n")
            if wish is Wish.RUN and chance.random() < 0.2:
                queue.release(job.id, job.attempts)
            else:
                queue.finish(job.id, job.attempts, State.CANCELLED if wish is Wish.CANCEL else State.SUCCEEDED)


def spans(log: Path) -> list[tuple[int, int, int, int | None]]:
    """(job, attempt, begin, end) of everything that was ever taken; no end where the gang was killed before."""
    times: dict[tuple[int, int], list[int]] = {}
    for line in log.read_text().splitlines():
        _, job, attempt, now = line.split()
        times.setdefault((int(job), int(attempt)), []).append(int(now))
    return [(*key, found[0], found[1] if len(found) > 1 else None) for key, found in times.items()]


@pytest.mark.timeout(300)
def test_no_job_is_lost_and_none_runs_twice(tmp_path: Path, start: Start) -> None:
    """While gangs take jobs, finish them, give them back and are killed, and a user cancels some."""
    queue, log = Queue(tmp_path / "state"), tmp_path / "log"
    log.touch()
    ids = queue.submit(jobs(JOBS))
    started = [start(serve, queue.folder, log, seed) for seed in range(GANGS)]
    cancelled = set()
    for index, id in enumerate(ids[::5]):
        try:
            queue.wish(id, Wish.CANCEL)
            cancelled.add(id)
        except InvalidInput as error:
            assert "already succeeded" in str(error)
        if index < KILLS:
            os.kill(started[index].pid or 0, signal.SIGKILL)
    for gang in started:
        gang.join(250)
    assert [gang.exitcode for gang in started] == [-signal.SIGKILL] * KILLS + [0] * (GANGS - KILLS)
    ended = {job.id: job for job in queue.jobs()}
    assert sorted(ended) == ids
    assert {id for id, job in ended.items() if job.state is State.CANCELLED} <= cancelled
    assert all(job.state in (State.SUCCEEDED, State.CANCELLED) for job in ended.values())
    taken = spans(log)
    by_job = Counter(job for job, *_ in taken)
    assert len(taken) == sum(1 for line in log.read_text().splitlines() if line.startswith("begin")), "once an attempt"
    for id, job in ended.items():
        # a gang may be killed between taking a job and writing that down
        assert 0 <= job.attempts - by_job[id] <= KILLS
        assert job.losses <= KILLS
        attempts = sorted(span for span in taken if span[0] == id)
        for (_, _, _, end), (_, _, begin, _) in itertools.pairwise(attempts):
            assert end is None or end < begin, f"job {id} ran twice at once"
    assert sum(job.losses for job in ended.values()) <= KILLS


def test_two_users_may_not_take_the_same_file(tmp_path: Path, start: Start) -> None:
    def submit(folder: Path, results: "multiprocessing.Queue[bool]") -> None:
        try:
            Queue(folder).submit(jobs(3))
            results.put(True)
        except InvalidInput as error:
            results.put("is not finished" not in str(error))

    results: multiprocessing.Queue[bool] = _processes.Queue()
    started = [start(submit, tmp_path, results) for _ in range(6)]
    won = [results.get(timeout=60) for _ in started]
    for process in started:
        process.join(60)
    assert won.count(True) == 1
    assert len(Queue(tmp_path).jobs()) == 3


def test_a_process_that_is_killed_while_it_writes_changes_nothing(tmp_path: Path, start: Start) -> None:
    """Not even when the half of its transaction is in the file already."""
    queue = Queue(tmp_path)
    queue.submit(jobs(2))
    gang = queue.register(1, "m")
    job = queue.claim(gang, lambda job: True)
    before = queue.jobs()
    size = (tmp_path / "queue.db").stat().st_size

    def die() -> None:
        with Queue(tmp_path)._database.changing() as db:
            db.execute("PRAGMA cache_size = 10")  # pages, so that what is written goes to the file before the commit
            db.execute("UPDATE jobs SET state = 'failed'")
            db.execute("DELETE FROM gangs")
            db.execute("UPDATE jobs SET error = ?", ("x" * 2_000_000,))
            assert (tmp_path / "queue.db").stat().st_size > size + 1_000_000
            os.kill(os.getpid(), signal.SIGKILL)

    process = start(die)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "queue.db-journal").exists(), "what the next one will undo"
    assert queue.jobs() == before
    assert job is not None
    queue.finish(job.id, job.attempts, State.SUCCEEDED)
    assert [gang.name for gang in queue.gangs()] == ["gang-1"]
    with sqlite3.connect(tmp_path / "queue.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_frozen_gang_loses_its_job_and_hears_so(tmp_path: Path, start: Start) -> None:
    """It wakes up when another one has finished the job, and must not say anything of it any more."""
    queue = Queue(tmp_path)
    queue.submit(jobs(1))
    taken, heard = _processes.Event(), _processes.Queue()

    def freeze() -> None:
        own = Queue(tmp_path)
        job = own.claim(own.register(1, "m"), lambda job: True)
        assert job is not None
        taken.set()
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            own.finish(job.id, job.attempts, State.FAILED, "too late")
        except LeaseLost as error:
            heard.put(str(error))

    process = start(freeze)
    assert taken.wait(60) and process.pid
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    time.sleep(0.1)
    assert queue.requeue_lost(lease_seconds=60) == []
    assert [job.id for job in queue.requeue_lost(lease_seconds=0.05)] == [1]
    gang = queue.register(1, "m")
    job = queue.claim(gang, lambda job: True)
    assert job is not None and job.attempts == 2
    queue.finish(1, 2, State.SUCCEEDED)
    os.kill(process.pid, signal.SIGCONT)
    assert "attempt 1 at job 1 is over" in heard.get(timeout=60)
    process.join(60)
    assert (queue.job(1).state, queue.job(1).error) == (State.SUCCEEDED, None)
