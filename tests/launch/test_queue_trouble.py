"""The queue's file while it is full, locked, away, damaged or of another version: what is said, and what is lost."""

import sqlite3
import time
from pathlib import Path

import pytest

from launch.jobs.options import Options
from launch.queue import database
from launch.queue.records import NewJob, State, Wish
from launch.queue.store import Queue
from launch.queue.trouble import QueueAway, QueueDamaged, QueueUnusable, described
from tests.support.queue_faults import away, full, locked


def new_job(name: str = "a", prompt: str = "a circle") -> NewJob:
    config = {"model": {"path": "/models/wan"}, "ray": {"max_restarts": 3}}
    return NewJob(Options("wan.yaml", (prompt,), output=Path(f"/videos/{name}.mp4")), config)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Queue(tmp_path / "state", wait_seconds=0.1)
    queue.submit([new_job()])
    return queue


def test_a_locked_queue_is_waited_for_and_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_SILENT_SECONDS", 0.1)
    waited: list[str] = []
    queue = Queue(tmp_path / "state", wait_seconds=0.4, waiting=waited.append)
    queue.submit([new_job()])
    began = time.monotonic()
    with locked(queue.folder), pytest.raises(QueueAway, match=r"queue\.db cannot be used.*locked it for 0\.4 s.*try"):
        queue.submit([new_job("b")])
    assert 0.3 < time.monotonic() - began < 20
    assert waited == [f"another process has locked {queue.folder}/queue.db: waiting, at most 0.4 s"]
    with locked(queue.folder), pytest.raises(QueueAway, match="locked"):
        Queue(queue.folder, wait_seconds=0.1).jobs()
    assert [job.id for job in queue.jobs()] == [1]


def test_a_full_disk_is_named_and_changes_nothing(queue: Queue) -> None:
    with full(), pytest.raises(QueueAway, match="its disk is full: make room there"):
        queue.submit([new_job(str(number), "long " * 200) for number in range(20)])
    assert len(queue.jobs()) == 1
    assert queue.submit([new_job("b")]) == [2], "it works again, with the next number"


def test_a_queue_that_is_away_is_no_new_one(queue: Queue) -> None:
    gang = queue.register(1, "m")
    with away(queue.folder):
        with pytest.raises(QueueAway, match="There is no queue in"):
            queue.renew_lease(gang)
        with pytest.raises(QueueAway):
            queue.register(1, "m", create=False)
        assert not queue.folder.exists(), "a second queue would be left in the mount point"
    queue.renew_lease(gang)


def test_a_gang_takes_no_other_queue_for_its_own(queue: Queue, tmp_path: Path) -> None:
    """Somebody submits while the folder is not mounted: the new queue has a job 1 and a gang-1 too."""
    gang = queue.register(1, "m")
    job = queue.claim(gang, lambda job: True)
    assert job is not None
    with away(queue.folder):
        other = Queue(queue.folder)
        other.submit([new_job()])
        other.claim(other.register(1, "m"), lambda job: True)
        for use in (
            lambda: queue.renew_lease(gang),
            lambda: queue.finish(1, 1, State.SUCCEEDED),
            lambda: queue.wish_of(1, 1),
        ):
            with pytest.raises(QueueAway, match="is another queue than before"):
                use()
        assert other.job(1).state is State.RUNNING
        queue.folder.rename(tmp_path / "other")
    queue.finish(1, 1, State.SUCCEEDED)
    assert queue.job(1).state is State.SUCCEEDED


def test_a_damaged_file_is_named_with_a_way_on(queue: Queue) -> None:
    file = queue.folder / "queue.db"
    whole = file.read_bytes()
    for content in (b"no database at all" * 1000, whole[:200] + b"\xff" * (len(whole) - 200)):
        file.write_bytes(content)
        for use in (queue.jobs, lambda: queue.wish(1, Wish.PAUSE)):
            with pytest.raises(QueueDamaged, match=r"damaged or no queue.*\.recover.*move it away"):
                use()
    file.unlink()
    file.mkdir()
    with pytest.raises(QueueAway, match="cannot be used"):
        queue.jobs()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_IOERR | 11 << 8, QueueAway, "its disk fails or is away"),  # as NFS's stale handles
        (sqlite3.SQLITE_READONLY, QueueAway, "read-only"),
        (sqlite3.SQLITE_READONLY_DBMOVED, QueueAway, "is mounted"),
        (sqlite3.SQLITE_CANTOPEN, QueueAway, "is mounted"),
        (sqlite3.SQLITE_PROTOCOL, QueueAway, "locked"),
        (sqlite3.SQLITE_ERROR, QueueUnusable, "cannot be used"),
    ],
)
def test_every_other_trouble_has_its_sentence(code: int, kind: type, words: str) -> None:
    error = sqlite3.OperationalError("why")
    error.sqlite_errorcode = code
    said = described(error, Path("/state/queue.db"), 30)
    assert type(said) is kind and words in str(said) and "/state/queue.db" in str(said) and str(said).endswith(".")


def test_a_fault_of_this_program_is_not_hidden() -> None:
    assert described(sqlite3.IntegrityError("no such gang"), Path("f"), 30) is None


def as_version_1(file: Path) -> None:
    with sqlite3.connect(file) as db:
        db.execute("ALTER TABLE jobs DROP COLUMN returns")
        db.execute("ALTER TABLE jobs DROP COLUMN kept")
        db.execute("DROP TABLE about")
        db.execute("PRAGMA user_version = 1")
    db.close()


def test_a_queue_of_the_version_before_is_taken_over(queue: Queue) -> None:
    """Whoever comes first, to look or to change."""
    before = queue.job(1)
    for use in (lambda: queue.jobs(), lambda: queue.wish(1, Wish.RUN), lambda: queue.submit([])):
        as_version_1(queue.folder / "queue.db")
        use()
        assert queue.job(1) == before and before.returns == [] and before.kept is None
        with sqlite3.connect(queue.folder / "queue.db") as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == 2, "which a gang of that version refuses"
            assert len(db.execute("SELECT identity FROM about").fetchone()[0]) == 32
        db.close()
