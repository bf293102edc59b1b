"""A request that is broken off and resumed: the same bits at the same layout, and within rounding at another."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.broken_off import BreaksOff, BrokenOff
from tests.support.gang import Gang
from tests.support.slow import all_slow_but
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.height=48", "sampling.width=112", "sampling.frames=5")  # 42 tokens
MOST_STATE = ("dicache", "last blocks", "a corrector")  # of a probe, of a segment, of whole latents
CACHES = {
    "dicache": ("cache.threshold=0.1", "cache.decide=per_branch"),
    "taylor": ("cache.method=interval", "cache.gate.interval=3", "cache.estimator=taylor"),
    "fbcache": ("cache.method=fbcache", "cache.threshold=0.2"),
    "last blocks": ("cache.method=dbcache", "cache.threshold=0.3", "cache.warmup_steps=2", "cache.last_blocks=2"),
    "easycache": ("cache.method=easycache", "cache.threshold=0.2", "cache.warmup_ratio=0.2"),
    "teacache": (
        "cache.method=teacache",
        "cache.threshold=0.4",
        "cache.warmup_ratio=0.2",
        "cache.gate.polynomial=[1.0,0.0]",
        "cache.gate.signal=timestep_embedding",
    ),
    "a corrector": (  # both breaks are inside a gap
        "cache.method=taylorseer",
        "cache.gate.interval=4",
        "cache.corrector=true",
        "cache.warmup_steps=1",
    ),
}


def run(ranks: Ranks, cache: str, folder: Path | None, stops: list[int | str | None]) -> tuple[Tensor, str, list[int]]:
    """Start the request as often as there are stops; the last one is None. Latents, actions, and where it went on."""
    config = tiny_config(*SMALL, *CACHES[cache], "checkpoint.every=2")
    model = load_model(config, ranks)
    request = make_request([PROMPT], "", 3, config.sampling)
    for stop in stops:
        try:
            result = Engine(model, BreaksOff(stop)).generate(request, checkpoint=folder)
        except BrokenOff:
            continue
    rows = result.report["steps"] if result.report else []
    assert all(row["seconds"] > 0 for row in rows), "those of other ranks' lanes as well"
    actions = "".join(row["action"][0] for row in rows)
    return result.latents, actions, result.report["resumed_at"] if result.report else []


@pytest.mark.parametrize("cache", all_slow_but(MOST_STATE, CACHES))
def test_the_same_bits_at_the_same_layout(cache: str, gang: Gang, tmp_path: Path) -> None:
    degrees = Degrees(cfg=2, ulysses=2)
    whole, actions, _ = gang.run(run, degrees, cache, None, [None])[0]
    resumed = gang.run(run, degrees, cache, tmp_path / "request", [3, 7, "write", None])
    assert "s" in actions and "c" in actions
    for latents, *_ in resumed:
        assert torch.equal(latents, whole)
    assert resumed[0][1] == actions
    assert resumed[0][2] == [2, 6, 12]
    assert [file.name for file in (tmp_path / "request").iterdir()] == ["done.json"]


@pytest.mark.parametrize(
    ("before", "after", "cache"),
    [
        (Degrees(ulysses=2), Degrees(cfg=2, ring=2), "dicache"),
        (Degrees(cfg=2, ring=2), Degrees(ulysses=2), "dicache"),
        (Degrees(ring=3), Degrees(ulysses=2), "dicache"),
        (Degrees(ring=2), Degrees(ring=3), "teacache"),  # a signal that all tokens share is on the first rank alone
    ],
    ids=lambda value: value if isinstance(value, str) else f"cfg{value.cfg}-ring{value.ring}-ulysses{value.ulysses}",
)
def test_another_layout(before: Degrees, after: Degrees, cache: str, gang: Gang, tmp_path: Path) -> None:
    """Cache shards are re-cut: shards of 14 tokens on three ranks become shards of 21 on two, for example."""
    whole, actions, _ = gang.run(run, Degrees(), cache, None, [None])[0]
    gang.run(begin, before, cache, tmp_path, 7)
    if cache == "teacache":
        assert _lengths(tmp_path, "timestep_embedding") == {0: 1, 1: 0}, "kept and counted once"
    resumed = gang.run(run, after, cache, tmp_path, [None])
    assert resumed[0][2] == [6] and resumed[0][1] == actions
    for latents, *_ in resumed:
        assert (latents - whole).abs().max() <= 1e-5 * whole.abs().max()


def _lengths(folder: Path, kind: str) -> dict[int, int]:
    """Tokens of the cond branch's newest signal of a kind, by rank, in the newest checkpoint."""
    newest = max(folder.glob("step-*"))
    lengths = {}
    for file in newest.glob("rank-*"):
        with safe_open(file, "pt") as opened:
            lengths[int(file.name.split("-")[1])] = opened.get_slice(f"cache.0.0.{kind}.0").get_shape()[1]
    return lengths


def begin(ranks: Ranks, cache: str, folder: Path, stop: int) -> None:
    config = tiny_config(*SMALL, *CACHES[cache], "checkpoint.every=2")
    with pytest.raises(BrokenOff):
        Engine(load_model(config, ranks), BreaksOff(stop)).generate(
            make_request([PROMPT], "", 3, config.sampling), checkpoint=folder
        )


@pytest.mark.parametrize("damage", all_slow_but(["torn", "all"], ["missing", "torn", "changed", "all"]))
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage: str, gang: Gang, tmp_path: Path) -> None:
    degrees = Degrees(ulysses=2)
    gang.run(begin, degrees, "dicache", tmp_path, 7)
    newest, *older = sorted(tmp_path.glob("step-*"), reverse=True)
    files = [next(newest.glob("rank-1-*"))] + ([next(older[0].glob("rank-0-*"))] if damage == "all" else [])
    for file in files:
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        match damage:
            case "missing":
                file.unlink()
            case "torn":
                file.write_bytes(content[: len(content) // 2])
            case _:
                file.write_bytes(content)
    # a third one stays where the first rank was quicker with its part of the newest than the other
    left = [2] if tmp_path / "step-00002" in older else []
    whole = gang.run(run, degrees, "dicache", None, [None])[0][0]
    latents, _, resumed_at = gang.run(run, degrees, "dicache", tmp_path, [None])[0]
    assert torch.equal(latents, whole)
    assert resumed_at == (left if damage == "all" else [4])
