"""Stopping a request from any rank: all ranks stop at the same step, with the cache on, and the engine goes on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.engine import Engine
from engine.errors import Stopped
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import Outputs, Task, make_request
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.slow import all_slow_but
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.height=32", "sampling.width=32", "sampling.frames=5", "cache.threshold=0.2")
TWO = Degrees(ulysses=2)
Stop = tuple[str, Control, int]  # once which rank has come where it wants what


class Asks(Progress):
    """Wants the request to stop once this rank has come to a stage, or has done a step."""

    def __init__(self, where: str, wish: Control) -> None:
        self._where, self._wish = where, wish
        self.control = Control.RUN

    def stage(self, name: str) -> None:
        self._come_to(name)

    def step(self, index: int, total: int, action: str) -> None:
        self._come_to(str(index))

    def _come_to(self, where: str) -> None:
        if where == self._where:
            self.control = self._wish


@dataclass
class Run:
    said: str
    files: list[str]
    latents: Tensor | None = None
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def actions(self) -> str:
        return "".join(row["action"][0] for row in self.report["steps"])


def run(ranks: Ranks, stops: list[Stop], every: int, folder: Path) -> list[Run]:
    """The same request again and again on one loaded model, stopped somewhere but for the last time."""
    config = tiny_config(*SMALL, f"checkpoint.every={every}")
    model = load_model(config, ranks)
    request = make_request([PROMPT], "", 3, config.sampling)
    outputs = folder / "o.mp4", folder / "o.json", folder / "o.safetensors", folder / "kept"
    runs = []
    for where, wish, rank in [*stops, ("", Control.RUN, 0)]:
        asks = Asks(where if rank == ranks.rank else "nowhere", wish)
        latents, report = None, {}
        try:
            result = Engine(model, asks).generate(request, *outputs, control=lambda asks=asks: asks.control)
            said, latents, report = "done", result.latents, result.report or {}
        except Stopped as stopped:
            said = f"{type(stopped).__name__}: {stopped}"
        runs.append(Run(said, listed(folder), latents, report))
    return runs


def listed(folder: Path) -> list[str]:
    """All that is in the folder; the other rank may be removing some of it."""
    while True:
        try:
            return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))
        except FileNotFoundError:
            continue


def whole(ranks: Ranks, folder: Path) -> Run:
    return run(ranks, [], 0, folder)[0]


def test_cancelled_at_the_same_step_whichever_rank_asks_and_nothing_is_left(gang: Gang, tmp_path: Path) -> None:
    stops = {("4", 1): "denoise step 5", ("0", 0): "denoise step 1", ("encode", 1): "denoise step 0"}
    stops |= {("10", 1): "denoise step 11", ("11", 1): "decode", ("decode", 1): "write", ("decode", 0): "write"}
    alone = gang.run(whole, TWO, tmp_path / "alone")[0]
    cancelled = gang.run(run, TWO, [(where, Control.CANCEL, rank) for where, rank in stops], 2, tmp_path / "cancelled")
    for runs in cancelled:
        assert [run.said for run in runs] == [
            *(f"Cancelled: Cancelled at {where}." for where in stops.values()),
            "done",
        ]
        assert torch.equal(runs[-1].latents, alone.latents), "nothing of those that were cancelled is in this one"
    first = cancelled[0]
    assert [run.files for run in first[:-1]] == [[]] * len(stops)
    assert "s" in alone.actions and first[-1].actions == alone.actions


@pytest.mark.parametrize("every", all_slow_but([2], [0, 2]))
def test_paused_at_exactly_that_step_and_gone_on_with_to_the_same_bits(every: int, gang: Gang, tmp_path: Path) -> None:
    """With and without checkpoints in between; a pause while the video is decoded comes too late."""
    stops = {("encode", 1): 0, ("2", 1): 3, ("4", 0): 5, ("7", 1): 8, ("11", 0): 12}
    alone = gang.run(whole, TWO, tmp_path / "alone")[0]
    asked = [(where, Control.PAUSE, rank) for (where, rank), _ in stops.items()]
    paused = gang.run(run, TWO, [*asked, ("decode", Control.PAUSE, 1)], every, tmp_path / "paused")
    for runs in paused:
        where = [f"denoise step {step}" if step < 12 else "decode" for step in stops.values()]
        assert [run.said for run in runs[:-2]] == [f"Paused: Paused at {place}." for place in where]
        assert runs[-2].said == "done"
        assert torch.equal(runs[-2].latents, alone.latents)
    first = paused[0]
    assert first[0].files == []
    for run_, step in list(zip(first, stops.values(), strict=False))[1:]:
        newest = max(file for file in run_.files if file.startswith("kept/step-"))
        assert newest.startswith(f"kept/step-{step:05d}/rank-")
    done = first[-2]
    assert done.actions == alone.actions and "s" in done.actions
    assert done.report["resumed_at"] == [3, 5, 8, 12]
    assert done.report["output"]["frames_sha256"] == alone.report["output"]["frames_sha256"]


def stop_a_list(ranks: Ranks, folder: Path) -> tuple[str, list[str]]:
    """Cancelled in the second of three videos, which goes with the whole list."""
    config = tiny_config(*SMALL, "sampling.steps=4")
    asks = Second()
    tasks = [
        Task(make_request([PROMPT], "", seed, config.sampling), Outputs(folder / f"{seed}.mp4")) for seed in range(3)
    ]
    try:
        Engine(load_model(config, ranks), asks).generate_all(tasks, lambda: asks.control)
    except Stopped as stopped:
        return str(stopped), sorted(file.name for file in folder.iterdir())
    return "done", []


class Second(Progress):
    control = Control.RUN

    def video(self, index: int, count: int) -> None:
        self.control = Control.CANCEL if index == 1 else Control.RUN


def test_a_list_stops_between_videos_and_keeps_those_that_are_finished(gang: Gang, tmp_path: Path) -> None:
    assert gang.run(stop_a_list, TWO, tmp_path)[0] == ("Cancelled at the beginning.", ["0.mp4"])
