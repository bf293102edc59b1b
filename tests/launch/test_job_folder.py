"""Who may write to the folder of a job."""

import fcntl
from pathlib import Path

import pytest

from engine.checkpoints import shard_file
from engine.checkpoints.match import FORMAT_KEY, must_match
from engine.checkpoints.names import step_folder
from engine.errors import InvalidInput
from engine.request import Outputs, make_tasks
from launch.jobs.folder import JobFolder
from tests.support.network_locks import network_flock
from tests.support.small_model import tiny_config


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


def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    config, folder = tiny_config(), JobFolder(tmp_path / "o.checkpoint")
    outputs = Outputs(tmp_path / "o.mp4", checkpoint=folder.path)
    tasks = make_tasks(["x"], "", [0], config.sampling, outputs)
    checkpoint = tasks[0].outputs.checkpoint
    assert checkpoint is not None
    today = must_match(config, tasks[0].request)
    for steps, written in ((1, today), (2, {key: today[key] for key in today if key != FORMAT_KEY})):
        shard_file.write(step_folder(checkpoint, steps), 0, 1, {}, {"must_match": written})
        if steps == 1:
            folder.refuse_if_changed(config, tasks)
    with pytest.raises(InvalidInput, match=r"was written by another version of Lockstep.*resume it with that version"):
        folder.refuse_if_changed(config, tasks)
