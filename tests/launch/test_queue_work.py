"""How much the queue reads: with 20,000 ended jobs a gang does the same work as without them."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.jobs.options import options_to_json
from launch.queue.records import GangState, JobProgress, JobRecord, State, Wish
from launch.queue.rows import job_values
from launch.queue.store import Queue
from tests.launch.test_queue import fits, new_job
from tests.support.clock import Clock

ENDED = 20_000


class Steps:
    """Counts the instructions of SQLite's machine: an exact measure of what was read, which time is not."""

    def __init__(self) -> None:
        self.count = 0

    def step(self) -> int:
        self.count += 1
        return 0


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps, connect = Steps(), sqlite3.connect

    def connect_counting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_progress_handler(steps.step, 1)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_counting)
    return steps


def fill(queue: Queue, count: int, state: State = State.SUCCEEDED, prompt: str = "a circle", model: str = "m") -> None:
    """Jobs that have ended, put there at once."""
    job = new_job(prompts=(prompt,))
    _, wish, _, _, submitted = job_values(job, 1.0)
    row = (state, wish, options_to_json(job.options), f'{{"model":{{"path":"{model}"}},"ray":{{"max_restarts":1}}}}')
    with queue._database.changing(create=True) as db:
        columns = "state, wish, options, config, submitted, ended, attempts"
        values = (*row, submitted, None if state is State.QUEUED else 2.0, 1)
        db.executemany(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", [values] * count)


def work(queue: Queue) -> Iterator[tuple[str, Callable[[], object]]]:
    """All that a gang does while it serves, and what users do."""
    first, second = queue.submit([new_job("a"), new_job("b")])
    gang = queue.register(1, "m")
    yield "requeue lost", queue.requeue_lost
    yield "claim", lambda: queue.claim(gang, lambda job: job.id == first)
    yield "claim nothing", lambda: queue.claim(gang, lambda job: False)
    yield "renew", lambda: queue.renew_lease(gang)
    yield "look", lambda: queue.wish_of(first, 1)
    yield "progress", lambda: queue.progress(first, 1, JobProgress("load"))
    yield "measure", queue.count_waiting
    yield "set state", lambda: queue.set_gang_state(gang, GangState.BUSY)
    yield "restart", lambda: queue.count_restart(first, 1)
    yield "release", lambda: queue.release(first, 1)
    yield "claim again", lambda: queue.claim(gang, fits)
    yield "finish", lambda: queue.finish(first, 2, State.FAILED, "no")
    yield "show", lambda: queue.job(first)
    yield "submit", lambda: queue.submit([new_job("c")])
    yield "cancel", lambda: queue.wish(second, Wish.CANCEL)
    yield "gangs", queue.gangs
    yield "unregister", lambda: queue.unregister(gang)


def measured(queue: Queue, steps: Steps) -> dict[str, int]:
    counts = {}
    for name, action in work(queue):
        steps.count = 0
        action()
        counts[name] = steps.count
    return counts


def test_twenty_thousand_ended_jobs_are_no_work_for_gangs(tmp_path: Path, steps: Steps) -> None:
    few, many = Queue(tmp_path / "few", Clock()), Queue(tmp_path / "many", Clock())
    fill(few, 2)
    fill(many, ENDED)
    before, after = measured(few, steps), measured(many, steps)
    assert all(count > 5 for count in before.values()), "it is counted"
    # nothing reads the ended jobs; a few instructions differ, since ids are found by bisection
    assert {name: after[name] for name, count in before.items() if after[name] > count + 50} == {}


def test_jobs_of_other_models_are_read_once(tmp_path: Path, steps: Steps) -> None:
    queue = Queue(tmp_path / "state", Clock())
    fill(queue, 500, State.QUEUED, "long " * 1000, "other")
    gang, seen, passed_over = queue.register(1, "m"), list[int](), set[int]()

    def fits_none(job: JobRecord) -> bool:
        seen.append(job.id)
        return job.model == "m"

    for _ in range(3):
        assert queue.claim(gang, fits_none, passed_over) is None
    assert seen == list(range(1, 501)) and passed_over == set(seen)
    queue.wish(7, Wish.CANCEL)
    (mine,) = queue.submit([new_job("mine", model="m")])
    taken = queue.claim(gang, fits, passed_over)
    assert taken is not None and taken.id == mine and len(seen) == 500
    assert 7 not in passed_over, "what waits no more is forgotten"


def test_no_statement_of_a_gang_reads_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite's own plans say; the table of gangs, which is short, is read whole."""
    queue, plans = Queue(tmp_path / "state", Clock()), list[tuple[str, str]]()
    fill(queue, 100)
    connect = sqlite3.connect

    def connect_explaining(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection, beside = connect(*args, **kwargs), connect(*args, **kwargs)

        def explain(statement: str) -> None:
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                rows = beside.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                plans.extend((statement, row[-1]) for row in rows)

        connection.set_trace_callback(explain)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_explaining)
    for _, action in work(queue):
        action()
    read = [(statement, plan) for statement, plan in plans if plan.startswith("SCAN")]
    assert len(plans) > 20
    assert [plan for plan in read if plan[1] not in ("SCAN gangs", "SCAN sqlite_master", "SCAN about")] == []
