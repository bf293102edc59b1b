"""What a run has to have in common with the one whose checkpoint it continues, and how files of ranks come together."""

import json
from pathlib import Path

import pytest
import torch

from dicache.controller import Decision, History, Lane, Plan, Planned, Segment, Snapshot, Step
from engine.checkpoints import shard_file
from engine.checkpoints.match import differences, must_match
from engine.checkpoints.names import step_folder
from engine.checkpoints.reader import newest_whole, read_state
from engine.checkpoints.state import RequestState
from engine.checkpoints.writer import CheckpointWriter, remove_old
from engine.config import Config
from engine.generation.step_log import StepLog
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from engine.storage.waiting import Waiting
from parallel.ranks import Ranks
from parallel.sharding import Shards
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.small_model import PROMPT, tiny_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def asked(model: Path, *overrides: str, seed: int = 0) -> tuple[Config, GenerationRequest]:
    config = tiny_config(f"model.path={model}", *overrides)
    return config, make_request([PROMPT], "", seed, config.sampling)


def test_what_must_match(model: Path) -> None:
    before = json.loads(json.dumps(must_match(*asked(model))))  # as a file gives it back

    def changed(*overrides: str, seed: int = 0) -> list[str]:
        return differences(before, must_match(*asked(model, *overrides, seed=seed)))

    assert changed() == []
    assert changed("parallel.ring=2", "runtime.audit=true", "checkpoint.every=3") == [], "another layout will do"
    assert changed("cache.threshold=0.3") == ["cache.threshold was 0.1 and is 0.3"]
    assert changed("sampling.steps=13") == ["request.sampling.steps was 12 and is 13"]
    assert changed("model.dtype=bfloat16") == ["model.dtype was 'float32' and is 'bfloat16'"]
    assert changed(seed=1) == ["request.seed was 0 and is 1"]


def test_a_changed_weight_is_noticed(model: Path) -> None:
    before = must_match(*asked(model))
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert [line.split(" was ")[0] for line in differences(before, must_match(*asked(model)))] == ["model.files"]
    finally:
        file.write_bytes(content)


def write(folder: Path, steps_done: int, *ranks: int, of: int = 2) -> None:
    for rank in ranks:
        shard_file.write(step_folder(folder, steps_done), rank, of, {"x": torch.arange(4.0)}, {"rank": rank})


def test_a_checkpoint_counts_once_all_ranks_are_there(tmp_path: Path) -> None:
    write(tmp_path, 5, 1)
    assert shard_file.find(step_folder(tmp_path, 5)) is None
    write(tmp_path, 5, 0)
    files = shard_file.find(step_folder(tmp_path, 5))
    assert files and [shard_file.read_plain(file)["rank"] for file in files] == [0, 1]
    assert all(map(shard_file.is_whole, files))


def test_files_of_runs_on_different_numbers_of_ranks_are_not_mixed(tmp_path: Path) -> None:
    """A file that could not be removed, or another machine's view of the folder, must not make a whole of halves."""
    write(tmp_path, 5, 1, of=2)
    write(tmp_path, 5, 0, 2, of=3)
    assert shard_file.find(step_folder(tmp_path, 5)) is None
    write(tmp_path, 5, 0, of=2)
    files = shard_file.find(step_folder(tmp_path, 5))
    assert files and [file.name.split(".")[0] for file in files] == ["rank-0-of-2", "rank-1-of-2"]


def test_the_newest_two_that_count_are_kept(tmp_path: Path) -> None:
    """And what is newer, which other ranks may still be writing."""
    for steps_done in (5, 10, 15):
        write(tmp_path, steps_done, 0, 1)
    write(tmp_path, 20, 0)
    write(tmp_path, 100005, 1)
    remove_old(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        "step-00010",
        "step-00015",
        "step-00020",
        "step-100005",
    ]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_file, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 5, 0)
    assert list(step_folder(tmp_path, 5).iterdir()) == []


def test_lanes_of_all_windows_and_segments_come_back(tmp_path: Path) -> None:
    """What a lane is told apart by is its fields, whatever they are, and a segment by its number."""
    lanes = [
        Lane(sample, branch, window) for sample in (0, 1) for branch in ("cond", "uncond") for window in (0, 1, 12)
    ]
    keys = [(lane, segment) for lane in lanes for segment in (0, 1)]
    histories = {(lane, s): History(lane, [Step(s, 0.9, 0.5)], 2 + s, 0.25 * s, segment=s) for lane, s in keys}
    tensors = {
        key: {"residual": tuple(torch.full((1, 4, 2), 10.0 * number + age) for age in range(2))}
        for number, key in enumerate(keys)
    }
    seconds = {(step, lane): step + number / 8 for number, lane in enumerate(lanes) for step in (0, 1)}
    state = RequestState(2, torch.zeros(2, 1, 1, 2, 2), snapshots=[Snapshot(histories, tensors)], seconds=seconds)
    ranks, shards = Ranks(), Shards((4,))
    told = Told()
    writer = CheckpointWriter([tmp_path], {}, Waiting(ranks, progress=told))
    writer.save(state, shards)
    writer.close()
    assert len(told.seconds) == 1 and told.seconds[0] > 0
    files = newest_whole([tmp_path], ranks)
    assert files is not None
    own = [lane for lane in lanes if lane.branch == "cond"]
    read = read_state(files, shards, own.__contains__, torch.device("cpu"))
    (snapshot,) = read.snapshots
    assert dict(snapshot.histories) == histories and list(snapshot.histories) == keys
    assert read.seconds == seconds
    assert snapshot.tensors.keys() == {key for key in keys if key[0] in own}
    for key, kept in snapshot.tensors.items():
        for age, tensor in enumerate(kept["residual"]):
            assert torch.equal(tensor, tensors[key]["residual"][age])


class Told(Progress):
    """A checkpoint that cannot be written fails the test."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def note(self, line: str) -> None:
        pytest.fail(line)

    def saved(self, seconds: float) -> None:
        self.seconds.append(seconds)


def test_rows_of_the_report_find_the_seconds_of_their_window() -> None:
    log = StepLog()
    lanes = [Lane(0, "cond", window) for window in (0, 1)]
    part = Planned(Segment(0, 4), Decision("compute"))
    log.add(Step(0, 0.9, 0.5), 900.0, {lane: Plan((part,)) for lane in lanes})
    log.fill_seconds({(0, lane): 1.0 + lane.window for lane in lanes})
    assert [(row.get("window"), row["seconds"]) for row in log.rows] == [(None, 1.0), (1, 2.0)]
