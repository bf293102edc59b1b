"""I6: cache state belongs to one request and dies with it."""

import gc

import pytest
import torch

from dicache.controller import Controller
from engine.config import Config
from engine.engine import Engine
from engine.errors import Cancelled
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.control import Control
from parallel.ranks import Ranks
from tests.support.slow import all_slow_but
from tests.support.small_model import PROMPT, tiny_config

OTHER = "a blue square moving up on a navy background"


def request(config: Config, *prompts: str, seed: int = 7) -> GenerationRequest:
    return make_request(prompts, "", seed, config.sampling)


def new_engine(config: Config, progress: Progress | None = None) -> Engine:
    return Engine(load_model(config, Ranks()), progress or Progress())


@pytest.fixture(scope="module", params=all_slow_but(["dicache", "interval"], ["dicache", "fbcache", "interval"]))
def config(request: pytest.FixtureRequest) -> Config:
    threshold = () if request.param == "interval" else ("cache.threshold=0.15",)
    return tiny_config(f"cache.method={request.param}", *threshold)


@pytest.fixture(scope="module")
def fresh(config: Config) -> torch.Tensor:
    return new_engine(config).generate(request(config, PROMPT)).latents


def test_the_same_request_twice_gives_the_same_bits(config: Config, fresh: torch.Tensor) -> None:
    engine = new_engine(config)
    for _ in range(2):
        assert torch.equal(engine.generate(request(config, PROMPT)).latents, fresh)


def test_another_request_before_changes_nothing(config: Config, fresh: torch.Tensor) -> None:
    engine = new_engine(config)
    engine.generate(request(config, OTHER, seed=1))
    smaller = config.sampling.model_copy(update={"frames": 5, "width": 112, "steps": 7, "guidance": 1.0})
    engine.generate(make_request([OTHER], "", 2, smaller))
    assert torch.equal(engine.generate(request(config, PROMPT)).latents, fresh)


@pytest.mark.parametrize("step", all_slow_but([0, 5, 11], [0, 1, 5, 8, 11]))
def test_a_cancelled_request_leaves_nothing_behind(config: Config, fresh: torch.Tensor, step: int) -> None:
    engine = new_engine(config)
    asked = iter(range(-1, 100))  # once before the first step
    with pytest.raises(Cancelled, match=rf"step {step}\."):
        engine.generate(request(config, OTHER), control=lambda: Control.CANCEL if next(asked) == step else Control.RUN)
    assert torch.equal(engine.generate(request(config, PROMPT)).latents, fresh)


def test_a_request_that_raised_half_way_leaves_nothing_behind(config: Config, fresh: torch.Tensor) -> None:
    class Breaking(Progress):
        broken = False

        def step(self, index: int, total: int, action: str) -> None:
            if index == 6 and not self.broken:
                self.broken = True
                raise RuntimeError("half-way")

    engine = new_engine(config, Breaking())
    with pytest.raises(RuntimeError, match="half-way"):
        engine.generate(request(config, OTHER))
    assert torch.equal(engine.generate(request(config, PROMPT)).latents, fresh)


def test_a_prompts_video_does_not_depend_on_what_it_is_batched_with(config: Config) -> None:
    engine = new_engine(config)
    pair = engine.generate(request(config, PROMPT, OTHER)).latents
    third = "a green triangle moving left on a navy background"
    other_pair = engine.generate(request(config, PROMPT, third)).latents
    assert torch.equal(pair[0], other_pair[0])
    assert not torch.equal(pair[1], other_pair[1])


def test_the_cache_is_gone_before_the_video_is_decoded(config: Config) -> None:
    """Decoding is where memory runs out."""

    held = {}

    class Looking(Progress):
        def stage(self, name: str) -> None:
            held[name] = sum(c.cache_bytes for c in gc.get_objects() if isinstance(c, Controller))

    result = new_engine(config, Looking()).generate(request(config, PROMPT))
    assert result.report and result.report["totals"]["cache_bytes_per_rank"] > 0
    assert held["write"] == 0
