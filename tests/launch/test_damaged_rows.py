"""A row that cannot be read costs its own job alone: it is listed, and fails where it is; the others are served."""

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidInput
from launch.queue.records import GangWish, JobProgress, State, Wish
from launch.queue.store import Queue
from launch.screens.jobs import print_job
from tests.launch.test_queue import fits, forget, new_job
from tests.support.clock import Clock
from tests.support.typed import Command

HUGE = 10**18


def changed_options(**changes: Any) -> str:
    options = {"config": "c.yaml", "prompts": ["a"], "prompts_file": None, "negative_prompt": "", "seeds": [0]}
    options |= {name: None for name in ("image", "last_image", "output", "report", "latents")}
    return json.dumps(options | {"audit": False, "overrides": []} | changes)


DAMAGED: dict[str, list[Any]] = {
    "state": ["asleep", "", 5, b"\x00\xff", "x" * 10**6],
    "wish": ["fly", HUGE, b"run"],
    "options": [
        "",
        "{",
        "[]",
        "null",
        b"{}",
        7,
        "[" * 100_000,
        b"\xff\xfe",
        '{"prompts": 1}',
        "9" * 5000,
        changed_options(prompts=[5]),
        changed_options(prompts=[]),
        changed_options(prompts=["a", "b"]),
        changed_options(output="/v\0/a.mp4"),
        changed_options(output="/"),
        changed_options(output=[1]),
        changed_options(seeds=["x"]),
        changed_options(seeds=5),
        changed_options(config=3),
        changed_options(more=1),
        changed_options(negative_prompt=None),
        changed_options(image={"a": 1}),
    ],
    "config": [
        "",
        "{}",
        "[1]",
        '{"model": 3}',
        '{"model": {"path": 3}, "ray": {"max_restarts": 1}}',
        '{"model": {}}',
        '{"ray": {"max_restarts": 1}}',
        b"x",
        "nul",
        "{" * 10_000,
    ],
    "submitted": ["yesterday", 1e300, float("inf"), -1e9, b"1"],
    "started": ["soon", 1e18, -5.0],
    "ended": ["never", 1e300],
    "attempts": ["many", -1, HUGE, 2.5],
    "losses": ["x", HUGE],
    "restarts": [b"x", -3],
    "preemptions": ["x"],
}
PASSING: dict[str, list[Any]] = {
    "progress": [
        "{",
        "[]",
        "5",
        '{"phase": 1}',
        '{"phase": "x", "timeline": "abc"}',
        '{"phase": "x", "step": "y"}',
        '{"phase": "x", "step": 1e999}',
        '{"phase": "x", "seconds_left": NaN}',
        b"\xff",
        '{"phase":"x","timeline":5}',
    ],
    "returns": ["{", "5", '[{"gang": 1}]', '[{"gang": "g", "host": 1, "at": 1, "reason": ""}]', b"\xff"],
    "error": [5, b"\xff\xfe", "\x1b[2J" * 1000],
    "gang": [5, b"\xff"],
    "kept": [5, b"\xff"],
}
CASES = [(column, value) for column, values in DAMAGED.items() for value in values]
HARMLESS = [(column, value) for column, values in PASSING.items() for value in values]


def write(queue: Queue, sql: str, *values: Any) -> None:
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.execute(sql, values)


def write_all(queue: Queue, cases: list[tuple[str, Any]]) -> None:
    """Each value into its column of a job of its own."""
    with sqlite3.connect(queue.folder / "queue.db") as db:
        for id, (column, value) in enumerate(cases, 1):
            db.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (value, id))


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv("LOCKSTEP_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return Queue(tmp_path / "state", Clock())


def test_each_damaged_row_is_listed_and_fails_alone(queue: Queue, typed: Command, tmp_path: Path) -> None:
    queue.submit([new_job(f"job-{index}", tmp_path) for index in range(len(CASES) + 1)])
    good, gang = len(CASES) + 1, queue.register(1, "/models/wan")
    write_all(queue, CASES)
    jobs = queue.jobs()
    assert [bool(job.damage) for job in jobs] == [True] * len(CASES) + [False]
    for job, (column, _) in zip(jobs, CASES, strict=False):
        assert f"its {column} " in str(job.damage) and job.described_state == "damaged" and len(str(job.damage)) < 300
        print_job(job, [], 1000.0, stream := io.StringIO())
        assert "damaged" in stream.getvalue()
    code, out, err = typed("jobs")
    assert (code, err) == (0, "") and out.count("damaged") >= len(CASES) and "a circle, job-" in out

    taken = queue.claim(gang, fits)
    assert taken is not None and taken.id == good
    states = {id: db_state(queue, id) for id in range(1, good)}
    asleep = [id for id, (column, _) in enumerate(CASES, 1) if column == "state"]
    assert {id for id, state in states.items() if state != State.FAILED} == set(asleep), "no gang knows what they do"
    assert all("is damaged (its " in str(queue.job(id).error) for id in states if id not in asleep)
    assert queue.claim(gang, fits) is None and queue.requeue_lost() == []
    queue.finish(good, 1, State.SUCCEEDED)


def db_state(queue: Queue, id: int) -> Any:
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.text_factory = bytes
        (state,) = db.execute("SELECT state FROM jobs WHERE id = ?", (id,)).fetchone()
    return state.decode(errors="replace") if isinstance(state, bytes) else state


def test_what_no_gang_needs_is_left_out(queue: Queue, typed: Command, tmp_path: Path) -> None:
    """Progress is written anew by the next attempt."""
    queue.submit([new_job(f"job-{index}", tmp_path) for index in range(len(HARMLESS))])
    write_all(queue, HARMLESS)
    assert [job.damage for job in queue.jobs()] == [None] * len(HARMLESS)
    code, out, err = typed("jobs")
    assert (code, err) == (0, "") and "\x1b" not in out
    for job in queue.jobs():
        print_job(job, [], 1000.0, stream := io.StringIO())
        assert "\x1b" not in stream.getvalue()
    gang = queue.register(1, "/models/wan")
    taken = [queue.claim(gang, fits) for _ in HARMLESS]
    assert [job and job.id for job in taken] == list(range(1, len(HARMLESS) + 1))


def test_a_damaged_job_of_a_lost_gang_fails(queue: Queue, tmp_path: Path) -> None:
    queue.submit([new_job("a", tmp_path), new_job("b", tmp_path)])
    gang = queue.register(1, "m")
    forget(queue, gang)
    assert queue.claim(gang, fits) and queue.claim(gang, fits)
    write(queue, "UPDATE jobs SET config = 'x', wish = 'fly' WHERE id = 1")
    assert queue.wish_of(1, 1) is Wish.RUN, "the gang goes on with what it was given"
    queue.progress(1, 1, JobProgress("load"))
    write(queue, "UPDATE gangs SET beat = 'x'")
    assert [gang.alive for gang in queue.gangs()] == [False]
    assert [(job.id, job.state) for job in queue.requeue_lost()] == [(1, State.FAILED), (2, State.QUEUED)]


@pytest.mark.parametrize("beat", ["soon", 1e300, -1e300, b"x", 4e9])
def test_a_heartbeat_that_no_clock_made_is_no_lease(beat: Any, queue: Queue) -> None:
    forget(queue, queue.register(1, "m"))
    write(queue, "UPDATE gangs SET beat = ?, state = 'x', wish = 'y', host = 3, ranks = 'z', registered = 'w'", beat)
    (gang,) = queue.gangs()
    assert (gang.alive, gang.wish, gang.host) == (False, GangWish.RUN, "3")
    queue.requeue_lost()
    assert queue.gangs() == []


def test_a_damaged_job_may_be_cancelled_alone(queue: Queue, tmp_path: Path) -> None:
    queue.submit([new_job("a", tmp_path), new_job("b", tmp_path)])
    write(queue, "UPDATE jobs SET state = 'asleep' WHERE id = 1")
    write(queue, "UPDATE jobs SET options = '' WHERE id = 2")
    for id in (1, 2):
        with pytest.raises(InvalidInput, match=rf"Job {id} is damaged in the queue .*: it can only be cancelled\.$"):
            queue.wish(id, Wish.PAUSE)
        queue.wish(id, Wish.CANCEL)
        assert db_state(queue, id) == "cancelled"
    assert queue.submit([new_job("a", tmp_path)]) == [3], "its output is free again"
