"""A decoding that gets on is waited for, however long a tile of it takes; one that is stuck is named."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from engine.components.signs_of_life import SignsOfLife
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from launch.process.phase import PhaseKeeper
from launch.ranks.hang_watch import HangWatch
from parallel import ranks as joining
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.small_model import tiny_config

LIMIT_SECONDS = 1
SIZE = ("sampling.frames=5", "sampling.height=48", "sampling.width=112", "model.vae_tiling=true")


def decode_slowly(ranks: Ranks, folder: Path, stuck: bool) -> tuple[float, bool]:
    """Decode one tile, on the first rank, whose layers take a while. Returns the seconds, and whether frames came."""
    config = tiny_config(f"runtime.load_timeout_seconds={LIMIT_SECONDS}", *SIZE)
    keeper = PhaseKeeper(Progress())
    model = load_model(config, ranks, keeper)
    layers = [part for part in model.autoencoder._vae.decoder.modules() if isinstance(part, nn.Conv3d)]  # type: ignore[attr-defined]
    calls = 0

    def take_long(*_: Any) -> None:
        nonlocal calls
        calls += 1
        time.sleep(4 * LIMIT_SECONDS / len(layers) if calls < len(layers) or not stuck else 600)

    for layer in layers:
        layer.register_forward_hook(take_long)
    sampling = config.sampling
    latents = torch.zeros(model.facts.latents_shape(sampling.frames, sampling.height, sampling.width))
    error_file = {"TORCHELASTIC_ERROR_FILE": str(folder / f"{ranks.rank}.json")}
    with (
        mock.patch.object(joining, "_LEAST_MARGIN_SECONDS", 0.5),
        mock.patch.dict(os.environ, error_file),
        HangWatch(keeper, config.runtime, ranks.rank, range(ranks.replica_size)),
    ):
        started = time.monotonic()
        frames = Engine(model, keeper).decode(latents)
        return time.monotonic() - started, frames is not None


def test_a_tile_may_take_longer_than_ranks_wait(gang: Gang, tmp_path: Path) -> None:
    results = gang.run(decode_slowly, Degrees(ulysses=2), tmp_path, False)
    assert [came for _, came in results] == [True, False]
    assert all(seconds > 3 * LIMIT_SECONDS for seconds, _ in results), "the second rank has waited"


def test_a_rank_that_is_stuck_in_a_tile_is_named(gang: Gang, tmp_path: Path) -> None:
    started = time.monotonic()
    outcomes = gang.outcomes(decode_slowly, Degrees(ulysses=2), tmp_path, True)
    assert [outcome.error for outcome in outcomes] == ["died", "died"]
    assert time.monotonic() - started < 30
    said = [json.loads((tmp_path / f"{rank}.json").read_text())["message"]["message"] for rank in (0, 1)]
    for line in said:
        assert line.startswith("rank 0 failed in decode: it has not got on for ") and "take_long" in line


def test_each_part_tells_that_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr("engine.components.signs_of_life._PERIOD_SECONDS", 0.0)
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    SignsOfLife(lambda: told.append(1), torch.device("cpu")).watch(module)
    module(torch.zeros(2))
    assert len(told) == 4


class Event:
    """A ``torch.cuda.Event``."""

    def __init__(self, log: list[str], number: int) -> None:
        self._log, self._number = log, number

    def record(self, stream: object) -> None:
        self._log.append(f"mark {self._number}")

    def synchronize(self) -> None:
        self._log.append(f"wait {self._number}")


def test_a_card_is_kept_close_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    numbers = iter(range(9))
    make: Callable[..., Event] = lambda blocking: Event(log, next(numbers))  # noqa: E731
    monkeypatch.setattr(torch.cuda, "Event", make)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    module = nn.ReLU()
    SignsOfLife(lambda: None, torch.device("cuda", 0)).watch(module)
    for _ in range(8 * 4):
        module(torch.zeros(2))
    assert log == ["mark 0", "mark 1", "mark 2", "wait 0", "mark 3", "wait 1"]


def test_ranks_that_nobody_watches_keep_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.generation import decoding

    limits: list[float] = []
    monkeypatch.setattr(decoding, "set_timeouts", limits.append)
    runtime, keeper = tiny_config().runtime, PhaseKeeper(Progress())
    decoding.limit_waits(runtime, keeper)
    keeper.has_watch = True
    decoding.limit_waits(runtime, keeper)
    assert limits[0] == runtime.load_timeout_seconds and limits[1] >= 86400
