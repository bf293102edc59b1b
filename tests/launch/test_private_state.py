"""Who may read the queue, logs and checkpoints, and which state folders are refused."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.checkpoints import shard_file
from engine.errors import InvalidInput
from engine.storage import private
from engine.storage.files import StagedFiles
from launch.cluster.up import _create_log
from launch.commands.fallback import with_fallback
from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.queue import access
from launch.queue.records import NewJob
from launch.queue.state_folder import state_folder
from launch.queue.store import Queue
from tests.support.small_model import CONFIG


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): mode(path) for path in (folder, *folder.rglob("*"))}


@pytest.fixture(params=[0o022], ids=["umask 022"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def job() -> NewJob:
    config = {"model": {"path": "m"}, "ray": {"max_restarts": 1}}
    return NewJob(Options("c.yaml", ("a circle",), output=Path("/videos/a.mp4")), config)


def fill(folder: Path) -> Path:
    """A state folder in use: a queue and a log."""
    Queue(folder).submit([job()])
    _create_log(folder / "logs").write_text("a line\n")
    return folder


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002, 0o007], ids=oct, indirect=True)
def test_the_state_folder_is_private_unless_the_umask_lets_the_group_write(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with Queue(folder)._database.changing(create=True) as db:
        db.execute("INSERT INTO gangs VALUES (1, 'h', 'r', 1, 'b', 1, 'm', 'ready', 'run', 0, 0, NULL)")
        journal = mode(folder / "queue.db-journal")
    fill(folder)
    shared = umask in (0o002, 0o007)
    file = 0o660 if shared else 0o600
    assert journal == file
    assert set(modes(folder).values()) == ({0o2770, 0o660} if shared else {0o700, 0o600})
    assert mode(folder / "queue.db") == file and len(modes(folder)) == 4
    assert private.umask() == umask


def test_checkpoints_are_private_and_results_are_the_users(umask: int, tmp_path: Path) -> None:
    video = tmp_path / "videos" / "out.mp4"
    folder = JobFolder.beside(video)
    with folder.hold():
        folder.write(Options("c.yaml", ("a circle",), output=video), load_job_config(CONFIG))
    shard_file.write(folder.path / "0" / "step-00001", 0, 1, {"x": torch.zeros(1)}, {})
    with StagedFiles() as files:
        files.stage(folder.path / "0" / "done.json", private=True).write_text("{}")
        files.stage(video).write_bytes(b"x")
    assert set(modes(folder.path).values()) == {0o700, 0o600} and len(modes(folder.path)) == 8
    assert (mode(video), mode(video.parent)) == (0o644, 0o755)


def test_a_folder_made_for_a_group_shares_what_is_made_in_it(umask: int, tmp_path: Path) -> None:
    """Whoever resumes the job, or runs the next gang: the mode of the folder is what remembers it."""
    tmp_path.chmod(0o2775)
    fill(tmp_path / "state")
    folder = JobFolder.beside(tmp_path / "out.mp4")
    with folder.hold():
        shard_file.write(folder.path / "0" / "step-00001", 0, 1, {"x": torch.zeros(1)}, {})
    for made in (tmp_path / "state", folder.path):
        assert set(modes(made).values()) == {0o2770, 0o660}
    tmp_path.chmod(0o2777)
    Queue(tmp_path / "open").submit([job()])
    assert set(modes(tmp_path / "open").values()) == {0o2700, 0o600}, "everybody is no group"


def test_group_shares_a_folder_and_it_is_remembered(umask: int, tmp_path: Path) -> None:
    folder, notes = tmp_path / "state", list[str]()
    fill(folder)
    access.prepare_state_folder(folder, True, notes.append)
    assert set(modes(folder).values()) == {0o2770, 0o660}
    (folder / "queue.db").unlink()
    access.prepare_state_folder(folder, False, notes.append)
    fill(folder)
    assert set(modes(folder).values()) == {0o2770, 0o660} and notes == []
    access.prepare_state_folder(tmp_path / "new", True, notes.append)
    assert mode(tmp_path / "new") == 0o2770


def test_an_open_folder_of_the_version_before_is_closed_with_a_note(umask: int, tmp_path: Path) -> None:
    folder, notes = fill(tmp_path / "state"), list[str]()
    fallback = with_fallback(Options(CONFIG), folder).fallback
    assert fallback is not None and fallback.parent == folder
    fallback.mkdir()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for _ in range(2):
        access.prepare_state_folder(folder, False, notes.append)
        assert set(modes(folder).values()) == {0o700, 0o600}
    assert len(notes) == 1 and str(folder) in notes[0] and "--group" in notes[0], "said once"
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o775 if path.is_dir() else 0o664)
    access.prepare_state_folder(folder, False, notes.append)
    assert set(modes(folder).values()) == {0o770, 0o660}, "the umask of the one who made it shares it"


def test_what_is_not_only_a_state_folder_stays_open(umask: int, tmp_path: Path) -> None:
    folder, notes = tmp_path / "home", list[str]()
    folder.mkdir()
    (folder / "index.html").write_text("")
    fill(folder)
    access.prepare_state_folder(folder, False, notes.append)
    assert (mode(folder), mode(folder / "index.html"), mode(folder / "queue.db")) == (0o755, 0o644, 0o600)
    folder.chmod(0o777)
    access.prepare_state_folder(folder, False, notes.append)
    assert mode(folder) == 0o777 and len(notes) == 1 and "anybody may write to" in notes[0]


def test_a_mount_without_modes_is_used_as_it_is(umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    notes: list[str] = []
    for group in (False, True):
        access.prepare_state_folder(tmp_path / "state", group, notes.append)
    fill(tmp_path / "state")
    os.chmod(tmp_path / "state/queue.db", 0o755)
    access.prepare_state_folder(tmp_path / "state", False, notes.append)
    assert notes == [] and Queue(tmp_path / "state").job(1).prompt == "a circle"


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to other users")
def test_somebody_elses_folder_or_link_where_anybody_writes_is_refused(umask: int, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    (public / "theirs").mkdir()
    (public / "link").symlink_to(tmp_path)
    for name in ("theirs", "link"):
        os.chown(public / name, 12345, 12345, follow_symlinks=False)
        for path in (public / name, public / name / "state"):
            with pytest.raises(InvalidInput, match=rf"{name}, on the way .* another user \(id 12345\).*--state\.$"):
                state_folder(path)
    os.chown(public / "theirs", 12345, os.getgid())
    (public / "theirs").chmod(0o2770)
    assert state_folder(public / "theirs") == public / "theirs", "it is shared with a group of this user's"
    assert state_folder(public / "own") == public / "own"
    os.chown(public, 12345, 12345)
    os.chown(public / "theirs", 12345, 12345)
    assert state_folder(public / "theirs") == public / "theirs", "they might do anything here"
