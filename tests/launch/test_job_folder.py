"""Who may write to the folder of a job."""

import fcntl
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.jobs.folder import JobFolder
from tests.support.network_locks import network_flock


@pytest.mark.parametrize("flock", [fcntl.flock, network_flock])
def test_a_folder_that_is_held_is_refused_and_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: object
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    folder = JobFolder(tmp_path / "o.checkpoint")
    folder.refuse_if_running()
    assert not folder.path.exists(), "to look leaves nothing"
    with folder.hold():
        with pytest.raises(InvalidInput, match="A run that still lives"):
            folder.refuse_if_running()
        with pytest.raises(InvalidInput, match="A run that still lives"):
            folder.await_end(timeout_seconds=0)
        with pytest.raises(InvalidInput, match="A run that still lives"), folder.hold():
            raise AssertionError("two hold it")
    folder.await_end(timeout_seconds=0)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = JobFolder(tmp_path / "o.checkpoint")
    with folder.hold():
        folder.refuse_if_running()
