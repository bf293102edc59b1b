"""A state folder that may only be read: jobs are listed, and what would change it is refused in a sentence."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.cluster.up import _create_log
from launch.queue.access import prepare_state_folder
from launch.queue.store import Queue
from tests.launch.test_queue import new_job
from tests.support.typed import Command

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """One with a job and a gang, that this process may read, but not write to, once it has closed it."""
    above = Path(tempfile.mkdtemp())  # not in tmp_path, into which only its owner may look
    state = above / "state"
    queue = Queue(state)
    queue.submit([new_job("a", tmp_path)])
    queue.register(1, "/models/wan")
    _create_log(state / "logs")
    yield state
    for each in (above, state, state / "logs"):
        each.chmod(0o755)
    shutil.rmtree(above)


@pytest.fixture
def closed(folder: Path) -> Iterator[Callable[..., None]]:
    """Takes the permission to write from this process."""
    is_root = os.geteuid() == 0

    def close(mode: int = 0o555) -> None:
        for path in (*folder.rglob("*"), folder, folder.parent):
            path.chmod(0o555 if path.is_dir() else 0o444)
        folder.chmod(mode)
        if is_root:  # which may write everywhere
            os.seteuid(NOBODY)

    yield close
    if is_root:
        os.seteuid(0)


def test_jobs_are_listed_and_nothing_is_changed(folder: Path, closed: Callable[..., None], typed: Command) -> None:
    before = (folder / "queue.db").read_bytes()
    closed()
    for arguments in (["jobs"], ["jobs", "1"], ["jobs", "--json"], ["prune", "--older-than=1d", "--dry-run"]):
        code, out, err = typed(*arguments, f"--state={folder}")
        assert (code, err) == (0, "") and out
    for arguments in (["cancel", "1"], ["pause", "1"], ["cluster", "down"]):
        code, out, err = typed(*arguments, f"--state={folder}")
        assert (code, out) == (2, "") and err.count("\n") == 1, err
        assert "read-only" in err and str(folder) in err and "permissions" in err
    with pytest.raises(InvalidInput, match=r"state/queue\.db cannot be changed, for it .* is read-only"):
        Queue(folder).submit([new_job("b")])
    with pytest.raises(InvalidInput, match=r"cannot write its log into .*logs \(Permission denied\).*--state\.$"):
        _create_log(folder / "logs")
    prepare_state_folder(folder, False, pytest.fail)
    assert (folder / "queue.db").read_bytes() == before


def test_a_queue_of_the_version_before_is_read_as_it_is(folder: Path, closed: Callable[..., None]) -> None:
    with sqlite3.connect(folder / "queue.db") as db:
        db.executescript("DROP TABLE about; ALTER TABLE jobs DROP COLUMN kept; ALTER TABLE jobs DROP COLUMN returns")
        db.execute("PRAGMA user_version = 1")
    closed()
    (job,) = Queue(folder).jobs()
    assert job.prompt == "a circle, a" and job.damage is None


def test_a_folder_that_may_not_be_looked_into(folder: Path, closed: Callable[..., None]) -> None:
    closed(0)
    with pytest.raises(InvalidInput, match=r"state cannot be read \(Permission denied\)"):
        Queue(folder).jobs()
