"""Disks that take no files: refused before the start, waited for, and in the end the latents are kept elsewhere."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.checks import room
from engine.checks.room import check_room
from engine.config import CheckpointConfig
from engine.engine import Engine
from engine.errors import DiskFailure, MachineUnfit, NoRoom, Paused
from engine.execution.loaded import LoadedModel, load_model
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import Outputs, make_request, make_tasks
from engine.storage.disks import Trouble, in_words, mount_of, refuse_unmounted
from engine.storage.files import StagedFiles
from engine.storage.waiting import Outage, Waiting
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, tiny_config

CONFIG = tiny_config("sampling.steps=4", "sampling.frames=5", "sampling.height=32", "sampling.width=32")


class Lines(Progress):
    """What is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []
        self.steps = 0

    def note(self, line: str) -> None:
        self.notes.append(line)

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, index: int, total: int, action: str) -> None:
        self.steps += 1


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(CONFIG, Ranks())


def full(folder: Path) -> Trouble:
    return Trouble.of(OSError(errno.ENOSPC, "No space left on device"), folder)


def test_a_run_without_room_is_refused_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_facts(CONFIG.model.path)
    outputs = Outputs(tmp_path / "new" / "o.mp4", checkpoint=tmp_path / "new" / "o.checkpoint")
    tasks = make_tasks([PROMPT], "", [0, 1], CONFIG.sampling, outputs)
    saving = CONFIG.model_copy(update={"checkpoint": CheckpointConfig(every=1)})
    monkeypatch.setattr(room, "free_bytes", lambda folder: 100_000)
    with pytest.raises(NoRoom) as refused:
        check_room(CONFIG, tasks, facts, Degrees())
    few = str(refused.value)
    assert isinstance(refused.value, MachineUnfit), "a gang gives the job back"
    assert "about " in few and f"in {tmp_path}" in few and "only 100 kB are free" in few
    with pytest.raises(NoRoom) as refused:
        check_room(saving, tasks, facts, Degrees())
    assert str(refused.value) != few, "checkpoints count"
    monkeypatch.setattr(room, "free_bytes", lambda folder: None)  # a mount that does not say
    check_room(CONFIG, tasks, facts, Degrees())
    monkeypatch.setattr(room, "free_bytes", lambda folder: 170_000)
    with pytest.raises(NoRoom):
        check_room(CONFIG, tasks, facts, Degrees())
    done = tasks[0].outputs.checkpoint
    assert done is not None
    done.mkdir(parents=True)
    (done / "done.json").write_text("{}")
    check_room(CONFIG, tasks, facts, Degrees())  # one of the two is made already


def test_bytes_in_words() -> None:
    sizes = (0, 950, 4200, 40_000_000, 999_600, 3.04e12, 5e16)
    assert [in_words(size) for size in sizes] == [
        "0 bytes",
        "950 bytes",
        "4.2 kB",
        "40 MB",
        "1.0 MB",
        "3.0 TB",
        "50000 TB",
    ]


def test_a_wait_ends_when_there_is_room_at_its_limit_or_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, free = Lines(), [0]
    monkeypatch.setattr("engine.storage.disks.free_bytes", lambda folder: free[0])
    outage = Outage(Waiting(Ranks(), 60, progress=told), "decode")
    with ThreadPoolExecutor() as pool:
        pool.submit(lambda: (time.sleep(0.7), free.__setitem__(0, 5_000_000)))
        assert outage.await_next_try(full(tmp_path), 1_000_000)
    outage.end()
    assert told.notes[0] == f"no room in {tmp_path}: waiting, free 0 bytes"
    assert told.notes[1].startswith(f"{tmp_path} takes files again")
    assert told.stages == ["room", "decode"]

    free[0] = 0
    assert not Outage(Waiting(Ranks(), 0), "decode").await_next_try(full(tmp_path), 1)
    long_name = Trouble.of(OSError(errno.ENAMETOOLONG, "File name too long"), tmp_path)
    assert not Outage(Waiting(Ranks(), 60), "decode").await_next_try(long_name, 1), "it would be waited for in vain"
    with pytest.raises(Paused):
        Outage(Waiting(Ranks(), 60, lambda: Control.PAUSE), "decode").await_next_try(full(tmp_path), 1)


def test_a_disk_that_has_gone_is_not_written_below(tmp_path: Path) -> None:
    assert os.path.ismount(mount_of(tmp_path / "new" / "folder"))
    with pytest.raises(OSError, match="is not mounted any more") as gone:
        refuse_unmounted(tmp_path)
    assert not Trouble.of(gone.value, tmp_path).is_over(0)


def test_slow_work_is_waited_for_with_a_sign_of_life() -> None:
    class Alive(Progress):
        count = 0

        def alive(self) -> None:
            self.count += 1

    progress = Alive()
    with ThreadPoolExecutor() as pool:
        work = pool.submit(time.sleep, 0.4)
        Waiting(Ranks(), progress=progress).until_done(work, Path())
        assert work.done() and progress.count >= 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_once_in_the_end_costs_a_moment(
    number: int, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, failures = StagedFiles.commit, [OSError(number, os.strerror(number))]

    def fail_once(files: StagedFiles) -> None:
        if failures:
            raise failures.pop()
        commit(files)

    monkeypatch.setattr(StagedFiles, "commit", fail_once)
    told, video = Lines(), tmp_path / "o.mp4"
    request = make_request([PROMPT], "", 0, CONFIG.sampling)
    result = Engine(model, told).generate(request, video, video.with_suffix(".json"), checkpoint=tmp_path / "c")
    assert result.report and video.stat().st_size
    assert "waiting, free" in told.notes[0] and "room" in told.stages
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "o.json", "o.mp4"]


def test_latents_are_kept_elsewhere_and_only_decoded_later(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request([PROMPT], "", 0, CONFIG.sampling)
    whole = Engine(model, Progress()).generate(request, tmp_path / "whole.mp4").report
    config = CONFIG.model_copy(update={"runtime": CONFIG.runtime.model_copy(update={"wait_for_room_seconds": 0})})
    paths = (tmp_path / "o.mp4", tmp_path / "o.json", None, tmp_path / "c", tmp_path / "elsewhere")
    with monkeypatch.context() as failing:

        def fail(files: StagedFiles) -> None:
            raise OSError(errno.EIO, "Input/output error")

        failing.setattr(StagedFiles, "commit", fail)
        with pytest.raises(DiskFailure, match=r"Input/output error.*final latents are kept in .*elsewhere"):
            Engine(model, Progress()).configured(config).generate(request, *paths)
    assert not paths[0].exists()
    for step in (tmp_path / "c").glob("step-*"):
        step.rename(tmp_path / "lost")  # with its disk
    told = Lines()
    resumed = Engine(model, told).generate(request, *paths).report
    assert whole and resumed and told.steps == 0, "nothing is denoised again"
    for key in ("latents_sha256", "frames_sha256"):
        assert resumed["output"][key] == whole["output"][key]
    assert not (tmp_path / "elsewhere").exists()
