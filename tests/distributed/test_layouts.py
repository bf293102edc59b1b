"""I2: the schedule and the video do not depend on the number of ranks or the layout."""

import pytest
import torch

from engine.config import Config
from engine.engine import Engine, Result
from engine.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.conftest import PROMPT, tiny_config
from tests.distributed.gang import Gang

LAYOUTS = {
    "ulysses2": Degrees(ulysses=2),
    "ring2": Degrees(ring=2),
    "cfg2": Degrees(cfg=2),
    "ring3": Degrees(ring=3),
    "ulysses4": Degrees(ulysses=4),
    "ulysses2-ring2": Degrees(ulysses=2, ring=2),
    "cfg2-ulysses2": Degrees(cfg=2, ulysses=2),
    "cfg2-ring2": Degrees(cfg=2, ring=2),
}
# tokens: 80 divides by 2 and 4, not by 3; 75 by 3 alone; 5 frames of 3 x 7 tokens by nothing but 3, 5, 7
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
SCHEDULE = ("step", "sample", "branch", "action")


def generate(ranks: Ranks, config: Config, request: GenerationRequest) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(request)


def configured(size: str, cache: str) -> Config:
    frames, height, width = SIZES[size]
    sampling = (f"sampling.frames={frames}", f"sampling.height={height}", f"sampling.width={width}")
    return tiny_config(*sampling, *CACHES[cache])


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Result]:
    """The one-rank result of each size and cache, made once."""
    return {}


@pytest.mark.parametrize(("size", "cache"), CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_schedule_and_latents_as_one_rank(
    gang: Gang, alone: dict[tuple[str, str], Result], layout: str, size: str, cache: str
) -> None:
    config = configured(size, cache)
    request = make_request([PROMPT], "", 7, config.sampling)
    if (size, cache) not in alone:
        alone[size, cache] = generate(Ranks(), config, request)
    expected = alone[size, cache]

    results = gang.run(generate, LAYOUTS[layout], config, request)

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
