"""Quantised weights on several ranks: the latents and the schedule of one rank."""

from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from engine.config import Config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.original_format import original_wan
from tests.support.parity import difference
from tests.support.quantised_files import save, scaled_fp8, write_gguf
from tests.support.small_model import PROMPT, ROOT, tiny_config

LAYOUTS = (Degrees(ulysses=2), Degrees(ring=2), Degrees(cfg=2))
Made = tuple[Tensor, list[Any]]


def make(ranks: Ranks, configs: list[Config]) -> list[Made]:
    made = []
    for config in configs:
        engine = Engine(load_model(config, ranks), Progress())
        result = engine.generate(make_request([PROMPT], "", 5, config.sampling))
        steps = result.report["steps"] if result.report else []
        made.append((result.latents, [(row["step"], row["branch"], row["action"]) for row in steps]))
    return made


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[Config]:
    """The small model that ships, with the cache on: quantised, and as published files."""
    folder = tmp_path_factory.mktemp("files")
    weights = load_file(ROOT / "configs" / "tiny_wan" / "transformer" / "diffusion_pytorch_model.safetensors")
    original = original_wan(weights)
    packed, _ = write_gguf(original, folder / "tiny.gguf")
    scaled = save(scaled_fp8(original)[0], folder / "scaled.safetensors")
    how = (
        ("model.quantize=int8",),
        ("model.quantize=fp8", f"model.single_files={{transformer: {scaled}}}"),
        (f"model.single_files={{transformer: {packed}}}",),
    )
    return [tiny_config("cache.threshold=0.3", *overrides) for overrides in how]


@pytest.fixture(scope="module")
def alone(configs: list[Config]) -> list[Made]:
    return make(Ranks(), configs)


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_two_ranks_make_what_one_makes(degrees: Degrees, gang: Gang, configs: list[Config], alone: list[Made]) -> None:
    by_rank = gang.run(make, degrees, configs, timeout_seconds=110)
    for number, (latents, schedule) in enumerate(alone):
        assert "skip" in {action for _, _, action in schedule}
        assert by_rank[0][number][1] == schedule
        for results in by_rank:
            assert difference(results[number][0], latents) <= 1e-5


@pytest.fixture(scope="module")
def same_bits(configs: list[Config]) -> list[Config]:
    """The same weights in bfloat16, with ``runtime.deterministic``."""
    return [
        config.model_copy(
            update={
                "model": config.model.model_copy(update={"dtype": "bfloat16"}),
                "runtime": config.runtime.model_copy(update={"deterministic": True}),
                "sampling": config.sampling.model_copy(update={"steps": 2, "frames": 5}),
            }
        )
        for config in configs
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)  # each call of a layer has 1024 rows, however few are asked for
def test_deterministic_gives_the_bits_of_one_rank(gang: Gang, same_bits: list[Config]) -> None:
    results = gang.run(make, Degrees(ring=3), same_bits, timeout_seconds=500)[0]
    for (latents, schedule), (expected, expected_schedule) in zip(results, make(Ranks(), same_bits), strict=True):
        assert latents.equal(expected) and schedule == expected_schedule
