import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.storage.files import StagedFiles
from tests.support.network_locks import network_flock


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_files_appear_together_when_the_block_ends(tmp_path: Path) -> None:
    first, second = tmp_path / "deep" / "a.mp4", tmp_path / "b.json"
    second.write_text("old")
    with StagedFiles() as files:
        files.stage(first).write_text("new a")
        files.stage(second).write_text("new b")
        assert not first.exists()
        assert second.read_text() == "old"
    assert (first.read_text(), second.read_text()) == ("new a", "new b")
    assert names(tmp_path) == ["b.json", "deep"]
    assert names(tmp_path / "deep") == ["a.mp4"]


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(RuntimeError), StagedFiles() as files:
        files.stage(path).write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.mp4"]


def test_a_disk_that_fills_up_at_the_second_file_keeps_the_first_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, report = tmp_path / "a.mp4", tmp_path / "a.json"
    video.write_text("old")
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), StagedFiles() as files:
        files.stage(video).write_text("new")
        files.stage(report).write_text("new")
    assert video.read_text() == "old"
    assert names(tmp_path) == ["a.mp4"]


def test_files_get_ordinary_permissions(tmp_path: Path) -> None:
    with StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("x")
    (tmp_path / "b").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    other, like_it = tmp_path / ".other-abcdefgh.mp4", tmp_path / ".a-mine.mp4"
    other.touch()
    like_it.touch()
    code = "import os, sys; from pathlib import Path; from engine.storage.files import StagedFiles; "
    code += "StagedFiles().stage(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", f"{code}; os._exit(9)", str(tmp_path / "a.mp4")], check=False)
    assert len(names(tmp_path)) == 3
    with StagedFiles() as files:
        staged = files.stage(tmp_path / "a.mp4")
        assert set(names(tmp_path)) == {other.name, like_it.name, staged.name}
        with StagedFiles() as others:
            others.stage(tmp_path / "a.mp4").write_text("another")
            assert staged.exists(), "its writer lives"
            staged.write_text("one")
        staged.write_text("the last")
    assert names(tmp_path) == [like_it.name, other.name, "a.mp4"] and (tmp_path / "a.mp4").read_text() == "the last"


def test_what_a_killed_run_left_on_a_network_file_system_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", network_flock)
    left = tmp_path / ".a-abcdefgh.mp4"
    left.touch()
    with StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("x")
    assert names(tmp_path) == ["a.mp4"]


def test_without_locks_nothing_is_taken_for_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    left = tmp_path / ".a-abcdefgh.mp4"
    left.touch()
    with StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("x")
    assert names(tmp_path) == [left.name, "a.mp4"]
