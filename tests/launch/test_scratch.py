"""Folders for temporary files, where the usual places cannot be written, do not exist, or have long names."""

import os
import tempfile
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.process import scratch
from launch.process.scratch import make_scratch_folder, scratch_folder


@pytest.fixture(autouse=True)
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_USUAL", (str(tmp_path / "usual"),))
    for name in ("TEMP", "TMP", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_a_temporary_folder_is_made_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of TMPDIR, the usual ones and the user's own that exists and can be written; removed at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with scratch_folder() as folder:
        assert folder.parent == tmp_path, "the current folder is the last resort"
    assert not folder.exists()
    (tmp_path / "usual").mkdir()
    with scratch_folder() as folder:
        assert folder.parent == tmp_path / "usual" and folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TMPDIR", "/proc")
    with scratch_folder() as folder:
        assert folder.parent == tmp_path / "usual"


def test_a_folder_for_sockets_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("t" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    short = Path(tempfile.mkdtemp(dir="/tmp", prefix="s"))
    monkeypatch.setattr(scratch, "_USUAL", (str(short),))
    limit = len(os.fsencode(short)) + 12
    made = make_scratch_folder(longest=limit)
    assert made.parent == short and len(os.fsencode(made)) <= limit
    made.rmdir()
    short.rmdir()


def test_no_temporary_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))

    def refuse(prefix: str, dir: str) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(InvalidInput, match=r"no folder for temporary files \(.*missing: read-only file.*set TMPDIR"):
        make_scratch_folder()
    with pytest.raises(InvalidInput, match=r"longer than 3 letters.*with a short name"):
        make_scratch_folder(longest=15)
