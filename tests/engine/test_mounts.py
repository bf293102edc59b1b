"""Mounts without permissions, fsync of folders, links, locks or listing: files are written there all the same."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.tiny_wan.recipe.export import make_readable
from engine.checkpoints import shard_file
from engine.checks.outputs import check_outputs
from engine.media.video import write_video
from engine.request import Outputs
from engine.storage.disks import probe
from engine.storage.files import StagedFiles, sync

REFUSALS = [errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS]
Patch = pytest.MonkeyPatch


def failing(call: Callable[..., Any], number: int, concerns: Callable[[Any], bool] = lambda _: True) -> Any:
    """The call, refused with an errno for the arguments that it concerns."""

    def refused(first: Any, *others: Any, **named: Any) -> Any:
        if concerns(first):
            raise OSError(number, os.strerror(number))
        return call(first, *others, **named)

    return refused


def is_folder(path_or_descriptor: Any) -> bool:
    return os.path.isdir(path_or_descriptor)


def write_all(folder: Path) -> None:
    """What a run writes: outputs, a checkpoint."""
    outputs = Outputs(folder / "new" / "a.mp4", folder / "new" / "a.json")
    check_outputs(outputs, folder / "model")
    assert outputs.video and outputs.report
    for text in ("one", "two"):  # replaced, too
        with StagedFiles() as files:
            files.stage(outputs.video).write_text(text)
            files.stage(outputs.report).write_text(text)
    shard_file.write(folder / "step-1", 0, 1, {"x": torch.arange(4.0)}, {})
    assert probe(folder / "other") is None
    assert outputs.video.read_text() == outputs.report.read_text() == "two"
    assert sorted(file.name for file in outputs.video.parent.iterdir()) == ["a.json", "a.mp4"]
    (written,) = shard_file.find(folder / "step-1") or ()
    assert shard_file.is_whole(written)


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_mount_without_permissions_ownership_links_and_fsync(number: int, tmp_path: Path, monkeypatch: Patch) -> None:
    for name in ("chmod", "fchmod", "lchmod", "chown", "fchown", "lchown", "link", "symlink", "utime", "fsync"):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, failing(getattr(os, name), number))
    write_all(tmp_path)


@pytest.mark.parametrize("number", [*REFUSALS, errno.EISDIR], ids=errno.errorcode.get)
def test_a_mount_that_opens_no_folders(number: int, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "open", failing(os.open, number, is_folder))
    write_all(tmp_path)


def test_a_folder_that_may_be_written_to_and_not_listed(tmp_path: Path, monkeypatch: Patch) -> None:
    kept = os.listdir, os.scandir
    monkeypatch.setattr(os, "listdir", failing(os.listdir, errno.EACCES))
    monkeypatch.setattr(os, "scandir", failing(os.scandir, errno.EACCES))
    with StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("x")
    monkeypatch.setattr(os, "listdir", kept[0])
    monkeypatch.setattr(os, "scandir", kept[1])
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_mount_without_locks_o_tmpfile_access_and_limits_of_names(tmp_path: Path, monkeypatch: Patch) -> None:
    for module, name, number in (
        (fcntl, "flock", errno.ENOTSUP),
        (os, "pathconf", errno.EINVAL),
    ):
        monkeypatch.setattr(module, name, failing(getattr(module, name), number))
    monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # which is not asked: a try tells
    write_all(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EXDEV, errno.EBUSY], ids=errno.errorcode.get)
def test_a_mount_without_renaming_gets_a_copy(number: int, tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "a.mp4").write_text("an older and longer one")
    monkeypatch.setattr(os, "replace", failing(os.replace, number))
    with StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.mp4": "new"}
    shard_file.write(tmp_path / "step-1", 0, 1, {"x": torch.arange(4.0)}, {})
    assert shard_file.find(tmp_path / "step-1")


def test_files_count_as_there_where_links_are_not_counted(tmp_path: Path, monkeypatch: Patch) -> None:
    """Some mounts give each file no link at all: nothing may wait for one."""
    plain = os.fstat

    def without_links(descriptor: int) -> os.stat_result:
        values = list(plain(descriptor))
        values[3] = 0
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", without_links)
    with StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("x")
    assert (tmp_path / "a.mp4").read_text() == "x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE])
def test_what_a_full_or_failing_disk_reports_is_no_refusal(number: int, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, number))
    with pytest.raises(OSError) as raised:
        sync(tmp_path)
    assert raised.value.errno == number
    with pytest.raises(OSError), StagedFiles() as files:
        files.stage(tmp_path / "a.mp4").write_text("x")
    with pytest.raises(OSError):
        shard_file.write(tmp_path / "step-1", 0, 1, {"x": torch.arange(4.0)}, {})
    assert not (tmp_path / "a.mp4").exists() and not list((tmp_path / "step-1").iterdir())
    assert (error := probe(tmp_path)) and error.errno == number


def test_the_recipe_of_the_small_model_needs_no_permissions(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "chmod", failing(os.chmod, errno.EPERM))
    make_readable(tmp_path)


def test_a_video_on_a_full_disk_is_an_error_and_its_room_is_free_again(tmp_path: Path) -> None:
    """Wherever the room ends: within the frames, in the index or while that is moved to the front."""
    frames = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video([frames], tmp_path / "whole.mp4", 16, 32, 32)
    whole = (tmp_path / "whole.mp4").read_bytes()
    assert whole.find(b"moov") < whole.find(b"mdat")

    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room in (0, 40, len(whole) // 2, len(whole) - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            path = tmp_path / f"{room}.mp4"
            with pytest.raises(OSError) as raised:
                write_video([frames], path, 16, 32, 32)
            assert raised.value.errno == errno.EFBIG
            open_files = [os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()]
            assert not [name for name in open_files if name.startswith(str(path))], "its room would stay taken"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    shutil.rmtree(tmp_path)


def _descriptors() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]
