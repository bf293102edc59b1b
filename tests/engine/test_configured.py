"""One loaded model for requests of different configurations: each gives what it would give alone."""

import pytest
import torch

from engine.config import Config
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.height=32", "sampling.width=32", "sampling.frames=5")
LOADED = tiny_config(*SMALL, "cache.method=none", "runtime.audit=false")
OTHER = tiny_config(*SMALL, "cache.threshold=0.3", "sampling.steps=8", "runtime.audit=true", "checkpoint.every=2")


def generate(engine: Engine, config: Config) -> tuple[torch.Tensor, list[str]]:
    result = engine.generate(make_request([PROMPT], "", 3, config.sampling))
    assert result.report is not None
    return result.latents, [row["action"] for row in result.report["steps"]]


def test_another_configuration_gives_what_it_gives_alone_and_leaves_nothing() -> None:
    engine = Engine(load_model(LOADED, Ranks()), Progress())
    alone = generate(Engine(load_model(OTHER, Ranks()), Progress()), OTHER)
    before = generate(engine, LOADED)
    other = generate(engine.configured(OTHER), OTHER)
    assert "skip" in other[1] and "skip" not in before[1]
    assert torch.equal(other[0], alone[0]) and other[1] == alone[1]
    assert torch.equal(generate(engine, LOADED)[0], before[0])


def test_what_was_decided_by_loading_stays() -> None:
    engine = Engine(load_model(LOADED, Ranks()), Progress())
    config = OTHER.model_copy(update={"parallel": OTHER.parallel.model_copy(update={"ulysses": 2})})
    configured = engine.configured(config)._model.config
    assert configured.parallel == LOADED.parallel
    assert (configured.cache, configured.checkpoint) == (OTHER.cache, OTHER.checkpoint)
    assert configured.runtime.audit and configured.runtime.device == "cpu"


def test_another_model_is_refused() -> None:
    engine = Engine(load_model(LOADED, Ranks()), Progress())
    with pytest.raises(InvalidInput, match=r"model\.vae_dtype was 'auto' and is 'bfloat16'"):
        engine.configured(tiny_config("model.vae_dtype=bfloat16"))
