"""I2: the schedule and the video do not depend on the number of ranks or the layout."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.config import Config
from engine.engine import Engine, Result
from engine.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.checkpoints import write_tiny_checkpoint
from tests.conftest import PROMPT, tiny_config
from tests.distributed.gang import Gang

# the trained model has 4 heads; a random one of 6 meets the Ulysses degrees that 4 does not divide by
FOUR_HEADS = [
    Degrees(ulysses=2),
    Degrees(ring=2),
    Degrees(cfg=2),
    Degrees(ring=3),
    Degrees(ulysses=4),
    Degrees(ulysses=2, ring=2),
    Degrees(cfg=2, ulysses=2),
    Degrees(cfg=2, ring=2),
    Degrees(ring=5),
    Degrees(cfg=2, ring=3),
    Degrees(ring=7),
    Degrees(ring=8),
    Degrees(ulysses=4, ring=2),
    Degrees(ulysses=2, ring=4),
    Degrees(cfg=2, ulysses=4),
    Degrees(cfg=2, ulysses=2, ring=2),
]
SIX_HEADS = [
    Degrees(ulysses=3),
    Degrees(ring=3),
    Degrees(ulysses=6),
    Degrees(ulysses=3, ring=2),
    Degrees(cfg=2, ulysses=3),
]
# tokens: 80 divides by 2, 4, 5 and 8, not by 3; 75 by 3 and 5; 5 frames of 3 x 7 tokens by nothing but 2, 3, 6, 7
SIZES = {"80 tokens": (17, 64, 64), "75 tokens": (17, 48, 80), "42 tokens": (5, 48, 112)}
CACHES = {
    "none": ("cache.method=none",),
    "dicache": ("cache.method=dicache", "cache.threshold=0.2"),
    "per branch": ("cache.decide=per_branch", "cache.threshold=0.1"),
    "fbcache": ("cache.method=fbcache", "cache.threshold=0.1"),
    "interval": ("cache.method=interval", "cache.interval=3", "cache.estimator=taylor"),
}
# every layout meets every cache, with and without a remainder; the full product would only repeat itself
CASES = [
    ("42 tokens", "none"),
    ("80 tokens", "dicache"),
    ("42 tokens", "dicache"),
    ("42 tokens", "per branch"),
    ("75 tokens", "fbcache"),
    ("80 tokens", "interval"),
]
LARGE_CASES = [("42 tokens", "none"), ("80 tokens", "dicache"), ("75 tokens", "per branch")]

SCHEDULE = ("step", "sample", "branch", "action")


def table() -> list[Any]:
    """model x layout x length x cache; layouts beyond four ranks are slow."""
    rows = []
    for model, degrees in [("4 heads", d) for d in FOUR_HEADS] + [("6 heads", d) for d in SIX_HEADS]:
        is_large = degrees.world_size > 4
        for size, cache in LARGE_CASES if is_large else CASES:
            if model == "6 heads" and cache not in ("none", "dicache"):
                continue  # its two branches never differ, and its first block says nothing that others do not
            name = "-".join((model, str(degrees), size, cache))
            rows.append(pytest.param(model, degrees, size, cache, id=name, marks=[pytest.mark.slow] * is_large))
    return rows


def generate(ranks: Ranks, config: Config, request: GenerationRequest) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(request)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Config]:
    six_heads = write_tiny_checkpoint(tmp_path_factory.mktemp("six"), num_heads=6, num_layers=4)

    def config(model: str, size: str, cache: str) -> Config:
        frames, height, width = SIZES[size]
        sampling = (f"sampling.frames={frames}", f"sampling.height={height}", f"sampling.width={width}")
        path = (f"model.path={six_heads}",) if model == "6 heads" else ()
        return tiny_config(*path, *sampling, *CACHES[cache])

    return config


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, ...], Result]:
    """The one-rank result of each model, size and cache, made once."""
    return {}


@pytest.mark.parametrize(("model", "degrees", "size", "cache"), table())
def test_same_schedule_and_latents_as_one_rank(
    gang: Gang,
    configured: Callable[[str, str, str], Config],
    alone: dict[tuple[str, ...], Result],
    model: str,
    degrees: Degrees,
    size: str,
    cache: str,
) -> None:
    config = configured(model, size, cache)
    request = make_request([PROMPT], "", 7, config.sampling)
    if (model, size, cache) not in alone:
        alone[model, size, cache] = generate(Ranks(), config, request)
    expected = alone[model, size, cache]

    results = gang.run(generate, degrees, config, request)

    assert expected.report and results[0].report
    assert _schedule(results[0]) == _schedule(expected)
    for result in results:
        assert torch.equal(result.latents, results[0].latents), "every rank must hold the same latents"
    difference = (results[0].latents - expected.latents).abs().max() / expected.latents.abs().max()
    assert difference < 1e-5
    if cache != "none":
        actions = {row["action"] for row in expected.report["steps"]}
        assert {"skip", "compute"} <= actions, "the case must skip and compute to show anything"
    if cache == "per branch":
        by_step: dict[int, set[str]] = {}
        for row in expected.report["steps"]:
            by_step.setdefault(row["step"], set()).add(row["action"])
        assert any(len(actions) > 1 for actions in by_step.values()), "the branches must differ somewhere"


def _schedule(result: Result) -> list[tuple[object, ...]]:
    assert result.report
    return [tuple(row[key] for key in SCHEDULE) for row in result.report["steps"]]
