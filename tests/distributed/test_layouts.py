"""I2: the schedule and the video do not depend on the number of ranks or the layout."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config

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
# no more steps than it takes to see each of them at work
CACHES = {
    "none": ("cache.method=none", "sampling.steps=3"),
    "dicache": ("cache.method=dicache", "cache.threshold=0.2", "sampling.steps=8"),
    "per branch": ("cache.decide=per_branch", "cache.threshold=0.1", "sampling.steps=12"),
    "fbcache": ("cache.method=fbcache", "cache.threshold=0.2", "cache.warmup_ratio=0.2", "sampling.steps=8"),
    "interval": ("cache.method=interval", "cache.gate.interval=3", "cache.estimator=taylor", "sampling.steps=8"),
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
LARGE_CASES = [("42 tokens", "none"), ("75 tokens", "dicache")]
LARGE_CFG_CASES = [*LARGE_CASES, ("75 tokens", "per branch")]  # branches on different ranks could drift apart

Case = tuple[str, str]  # size, cache
SCHEDULE = ("step", "sample", "branch", "action")


def cases_of(model: str, degrees: Degrees) -> list[Case]:
    if model == "6 heads":  # its two branches never differ, and its first block says nothing that others do not
        return [case for case in CASES if case[1] in ("none", "dicache")]
    if degrees.world_size > 4:
        return LARGE_CFG_CASES if degrees.cfg == 2 else LARGE_CASES
    return CASES


def table() -> list[Any]:
    """model x layout x length x cache; slow are a ring of two, and of four ranks and more all but one hybrid."""
    rows = []
    for model, degrees in [("4 heads", d) for d in FOUR_HEADS] + [("6 heads", d) for d in SIX_HEADS]:
        is_quick = (degrees.world_size < 4 and degrees != Degrees(ring=2)) or degrees == Degrees(ulysses=2, ring=2)
        marks = [] if is_quick else [pytest.mark.slow]
        for size, cache in cases_of(model, degrees):
            name = "-".join((model, str(degrees), size, cache))
            rows.append(pytest.param(model, degrees, size, cache, id=name, marks=marks))
    return rows


def generate(ranks: Ranks, configs: list[Config]) -> list[Result]:
    """One request for each configuration, on one loaded model: what one leaves behind would show in the next."""
    model = load_model(configs[0], ranks)
    engines = [(Engine(replace(model, config=config), Progress()), config) for config in configs]
    return [engine.generate(make_request([PROMPT], "", 7, config.sampling)) for engine, config in engines]


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
def alone(configured: Callable[[str, str, str], Config]) -> Callable[[str, str, str], Result]:
    """The one-rank result of a model, size and cache, each on a model of its own."""

    @functools.cache
    def result(model: str, size: str, cache: str) -> Result:
        return generate(Ranks(), [configured(model, size, cache)])[0]

    return result


@pytest.fixture(scope="module")
def on_ranks(gang: Gang, configured: Callable[[str, str, str], Config]) -> Callable[..., dict[Case, list[Result]]]:
    """The results of every rank of a layout for all its cases, which run one after the other."""

    @functools.cache
    def results(model: str, degrees: Degrees) -> dict[Case, list[Result]]:
        cases = cases_of(model, degrees)
        configs = [configured(model, *case) for case in cases]
        by_rank = gang.run(generate, degrees, configs, timeout_seconds=100)
        return {case: [results[i] for results in by_rank] for i, case in enumerate(cases)}

    return results


@pytest.mark.parametrize(("model", "degrees", "size", "cache"), table())
def test_same_schedule_and_latents_as_one_rank(
    alone: Callable[[str, str, str], Result],
    on_ranks: Callable[..., dict[Case, list[Result]]],
    model: str,
    degrees: Degrees,
    size: str,
    cache: str,
) -> None:
    expected = alone(model, size, cache)
    results = on_ranks(model, degrees)[size, cache]

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
