import os
from pathlib import Path

import pytest

from engine.files import StagedFiles


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
