"""DBCache decides and estimates as cache-dit itself does, with last blocks and without, in diffusers' own pipeline."""

import pytest

from engine.checks.cache import check_cache
from engine.config import Config
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.cache_dit_runs import Ran, Run, under_cache_dit
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.steps=14", "sampling.frames=5", "sampling.height=48", "sampling.width=112")
SEED = 5
SHIPPED, DEEP = "the shipped model, 12 blocks", "random weights, 20 blocks"
# of each case the model, cache-dit's Fn and Bn, the threshold, and the most skips in all and in a row (-1: no limit)
CASES = {
    "F1B0": (SHIPPED, 1, 0, 0.3, -1, -1),
    "F1B1": (SHIPPED, 1, 1, 0.3, -1, -1),
    "F1B1 with limits": (SHIPPED, 1, 1, 0.3, 5, 2),
    "F3B4": (SHIPPED, 3, 4, 0.2, -1, -1),
    "F8B8": (DEEP, 8, 8, 0.12, -1, 3),
    "overlapping F8B8": (SHIPPED, 8, 8, 0.3, -1, -1),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    deep = write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "deep", num_layers=20)
    return {SHIPPED: str(tiny_config().model.path), DEEP: str(deep)}


@pytest.fixture(scope="module")
def theirs(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """What cache-dit does in each case; its warm-up is 4 steps."""
    sampling = tiny_config(*SMALL).sampling
    common = {
        name: getattr(sampling, name)
        for name in ("steps", "frames", "height", "width", "shift", "guidance", "max_sequence_length")
    }
    runs = [
        Run(models[model], first, last, threshold, 4, most, row, prompt=PROMPT, seed=SEED, **common)
        for model, first, last, threshold, most, row in CASES.values()
    ]
    return dict(zip(CASES, under_cache_dit(runs, tmp_path_factory.mktemp("runs")), strict=True))


def configured(case: str, models: dict[str, str]) -> Config:
    model, first, last, threshold, most, row = CASES[case]
    limits = {"max_skips": most, "max_consecutive_skips": row}
    given = [f"cache.{name}={value}" for name, value in limits.items() if value >= 0]
    settings = ("method=dbcache", f"threshold={threshold}", f"probe_depth={first}", f"last_blocks={last}")
    own = (*settings, "warmup_steps=4", "decide=per_branch")
    return tiny_config(f"model.path={models[model]}", *SMALL, *(f"cache.{setting}" for setting in own), *given)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("overlapping")])
def test_schedule_and_latents_are_those_of_cache_dit(case: str, models: dict[str, str], theirs: dict[str, Ran]) -> None:
    config, expected = configured(case, models), theirs[case]
    result = Engine(load_model(config, Ranks()), Progress()).generate(make_request([PROMPT], "", SEED, config.sampling))
    assert result.report
    ours = [row["action"] != "skip" for row in result.report["steps"]]
    num_blocks = len(expected.blocks[0])
    assert ours == [sum(ran) == num_blocks for ran in expected.blocks]
    assert {True, False} == set(ours[8:]), "the case must skip and compute to show anything"
    assert (result.latents - expected.latents).abs().max() <= 1e-4 * expected.latents.abs().max()
    _, first, last, *_ = CASES[case]
    for ran in expected.blocks:
        assert sum(ran) in (first + last, num_blocks)
    every = sum(map(sum, expected.blocks))
    assert result.report["totals"]["block_fraction"] == every / (num_blocks * len(ours))


def test_where_first_and_last_blocks_overlap_cache_dit_runs_some_twice_and_skips_nothing(
    models: dict[str, str], theirs: dict[str, Ran]
) -> None:
    for ran in theirs["overlapping F8B8"].blocks:
        assert ran == [1] * 4 + [2] * 4 + [1] * 4
    config = configured("overlapping F8B8", models)
    request = make_request([PROMPT], "", SEED, config.sampling)
    with pytest.raises(
        InvalidInput, match=r"probe_depth is 8 and cache\.last_blocks is 8, but the model has 12 blocks"
    ):
        check_cache(config, request, read_facts(config.model.path))


def test_a_trajectory_keeps_the_middle_alone(models: dict[str, str]) -> None:
    """Last blocks cost no memory between steps: nothing is kept of them."""
    kept = {}
    for last in (0, 4):
        config = configured("F3B4", models)
        config = config.model_copy(update={"cache": config.cache.model_copy(update={"last_blocks": last})})
        request = make_request([PROMPT], "", SEED, config.sampling)
        report = Engine(load_model(config, Ranks()), Progress()).generate(request).report
        assert report
        kept[last] = report["totals"]["cache_bytes_per_rank"]
    assert kept[0] == kept[4] > 0
