"""I1 and I2 for every gate and estimator in the whole engine: equal decisions and videos on one, two and three ranks,
and on ranks that hold a part of the weights. What a method needs of the ranks is one collective a step at most."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from parallel.weights import ShardedWeights
from tests.support.checkpoints import write_published_wan
from tests.support.gang import Gang
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.slow import all_slow_but
from tests.support.small_model import PROMPT, tiny_config

METHODS = {
    "ridge": ("method=dicache", "threshold=1.2", "estimator=ridge"),
    "projection on velocities": ("method=dicache", "threshold=1.2", "estimator=projection", "anchor=latents"),
    "per branch": ("method=dicache", "threshold=1.027", "anchor=nothing", "decide=per_branch"),
    "teacache": ("method=teacache", "threshold=1.7", "gate.polynomial=[1.0,0.0]", "gate.signal=timestep_embedding"),
    "retention": (
        "method=teacache",
        "threshold=1.6",
        "gate.polynomial=[1.0,0.0]",
        "gate.signal=timestep_modulation",
        "gate.use_ret_steps=true",
        "estimator=alignment",
    ),
    "magcache": ("method=magcache", "gate.ratios=[1.0,0.97,0.93]"),
    "easycache": ("method=easycache", "threshold=2.0", "warmup_steps=2"),
    "last blocks": ("method=dbcache", "threshold=0.85", "warmup_steps=2", "last_blocks=1", "decide=per_branch"),
    "a corrector over hidden states": ("method=dicache", "threshold=1.2", "corrector=true"),
    "innovation": ("method=innovation", "threshold=0.3", "warmup_ratio=0.2", "estimator=ridge"),
    "taylorseer": ("method=taylorseer", "gate.interval=3", "estimator.order=2"),
    "hicache": ("method=hicache", "gate.interval=3"),
    "abcache": ("method=abcache", "gate.interval=3"),
    "foca": ("method=foca", "gate.interval=4"),
}
WITHOUT_DATA = ("magcache", "taylorseer", "hicache", "abcache", "foca")
LAYOUTS = {
    "ring3": (Degrees(ring=3), (17, 64, 64)),  # 80 tokens
    "ulysses2": (Degrees(ulysses=2), (17, 48, 80)),  # 75
    "cfg2": (Degrees(cfg=2), (17, 48, 80)),
}


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published_wan(tmp_path_factory.mktemp("wan"), "Wan2.1-T2V-14B")


def configured(model: Path, size: tuple[int, int, int], cache: tuple[str, ...], *others: str) -> Config:
    sampling = [f"sampling.{name}={value}" for name, value in zip(("frames", "height", "width"), size, strict=True)]
    return tiny_config(f"model.path={model}", *sampling, *(f"cache.{setting}" for setting in cache), *others)


def generate(ranks: Ranks, configs: list[Config]) -> list[Result]:
    """One request for each configuration, on one loaded model."""
    model = load_model(configs[0], ranks)
    engines = [(Engine(replace(model, config=config), Progress()), config) for config in configs]
    return [engine.generate(make_request([PROMPT], "", 7, config.sampling)) for engine, config in engines]


@pytest.fixture(scope="module")
def results(gang: Gang, wan: Path) -> Callable[[str], tuple[list[Result], list[list[Result]]]]:
    """The results of all methods on one rank, and those of every rank of a layout."""

    @functools.cache
    def of(layout: str) -> tuple[list[Result], list[list[Result]]]:
        degrees, size = LAYOUTS[layout]
        configs = [configured(wan, size, cache) for cache in METHODS.values()]
        return generate(Ranks(), configs), gang.run(generate, degrees, configs, timeout_seconds=100)

    return of


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layout", all_slow_but(["ulysses2", "cfg2"], LAYOUTS))
def test_same_schedule_and_latents_as_one_rank(
    results: Callable[[str], tuple[list[Result], list[list[Result]]]], layout: str, method: str
) -> None:
    alone, by_rank = results(layout)
    number = list(METHODS).index(method)
    expected, shared = alone[number], [of_rank[number] for of_rank in by_rank]
    assert expected.report and shared[0].report
    rows, ours = expected.report["steps"], shared[0].report["steps"]
    assert [(r["step"], r["branch"], r["action"]) for r in ours] == [
        (r["step"], r["branch"], r["action"]) for r in rows
    ]
    assert {"skip", "compute"} <= {row["action"] for row in rows}, "the case must skip and compute to show anything"
    for row, reference in zip(ours, rows, strict=True):
        for name in ("indicator", "accumulated", "gamma"):
            expected_number = reference[name]
            assert row[name] == (
                None if expected_number is None else pytest.approx(expected_number, rel=1e-4, abs=1e-6)
            )
    for result in shared:
        assert torch.equal(result.latents, shared[0].latents), "every rank must hold the same latents"
    difference = (shared[0].latents - expected.latents).abs().max() / expected.latents.abs().max()
    assert difference < 1e-5
    totals = shared[0].report["totals"]
    steps, peers = 12, LAYOUTS[layout][0].world_size - 1
    agreed = totals["collective_bytes_by_kind"]["agreement"] // (8 * peers) - 4 * steps
    assert (agreed == 0) == (method in WITHOUT_DATA), "numbers beyond the four that the ranks always agree on"
    if layout == "ulysses2" and not expected.report["request"]["cache"]["corrector"]:  # which keeps whole latents
        assert totals["cache_bytes_per_rank"] * 2 >= expected.report["totals"]["cache_bytes_per_rank"]
        assert totals["cache_bytes_per_rank"] < 0.6 * expected.report["totals"]["cache_bytes_per_rank"]


def generate_both(ranks: Ranks, config: Config) -> tuple[Result, Result]:
    parts = config.model_copy(update={"parallel": config.parallel.model_copy(update={"shard_weights": True})})
    return generate(ranks, [config])[0], generate(ranks, [parts])[0]


def test_a_head_that_one_rank_skips_and_another_runs(gang: Gang, wan: Path) -> None:
    """Its weights come from both ranks, so that one that skipped it would leave the other waiting."""
    config = configured(wan, (17, 48, 80), METHODS["per branch"])
    pairs = gang.run(generate_both, Degrees(cfg=2), config)
    for whole, parts in pairs:
        assert (whole.latents - parts.latents).abs().max() < 1e-5 * whole.latents.abs().max()
    by_step: dict[int, set[str]] = {}
    for row in (pairs[0][1].report or {})["steps"]:
        by_step.setdefault(row["step"], set()).add(row["action"])
    assert any(actions == {"skip", "compute"} for actions in by_step.values()), "the branches must differ somewhere"


def generate_watched(ranks: Ranks, config: Config) -> tuple[tuple[Result, Result], list[tuple[int, int]]]:
    """Also the ranges of blocks that this rank gave to others without running them."""
    given: list[tuple[int, int]] = []
    take_part = ShardedWeights.take_part

    def watched(weights: ShardedWeights, start: int, stop: int) -> None:
        given.append((start, stop))
        take_part(weights, start, stop)

    with mock.patch.object(ShardedWeights, "take_part", watched):
        return generate_both(ranks, config), given


def test_last_blocks_run_on_a_rank_that_skips_the_middle_for_which_it_gives_its_weights(gang: Gang, wan: Path) -> None:
    config = configured(wan, (17, 48, 80), METHODS["last blocks"])
    outcomes = gang.run(generate_watched, Degrees(cfg=2), config)
    for (whole, parts), given in outcomes:
        assert (whole.latents - parts.latents).abs().max() < 1e-5 * whole.latents.abs().max()
        assert set(given) <= {(1, 2)}, "of three blocks the first and the last run on every rank"
    assert any(given for _, given in outcomes), "the branches must differ somewhere"
    for report in (outcomes[0][0][0].report, outcomes[0][0][1].report):
        assert report
        skipped = sum(row["action"] == "skip" for row in report["steps"])
        every = 3 * len(report["steps"])
        assert report["totals"]["block_fraction"] == (every - skipped) / every


def test_a_signal_from_inside_a_block_whose_weights_are_shared_out(gang: Gang, tmp_path: Path) -> None:
    """TeaCache on HunyuanVideo, whose signal is of the tokens that each rank holds: 45, which two do not divide."""
    model = write_hunyuan_checkpoint(tmp_path / "HunyuanVideo")
    others = ["sampling.scheduler=euler", "sampling.max_sequence_length=256", "sampling.steps=10"]
    cache = ("method=teacache", "threshold=0.5", "gate.polynomial=[1.0,0.0]", "gate.signal=modulated_input")
    config = configured(model, (9, 48, 80), cache, *others)
    (alone,) = generate(Ranks(), [config])
    for whole, parts in gang.run(generate_both, Degrees(ulysses=2), config):
        for result in (whole, parts):
            assert (result.latents - alone.latents).abs().max() < 1e-5 * alone.latents.abs().max()
    assert alone.report
    assert {"skip", "compute"} <= {row["action"] for row in alone.report["steps"]}
