"""FBCache, MagCache and TaylorSeer decide and estimate as diffusers' own hooks do, in its own pipeline."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

from engine.engine import Engine
from engine.execution.loaded import LoadedModel, load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.pipeline import SMALL, STEPS, ask
from tests.support.small_model import PROMPT, tiny_config

RATIOS = [1.0, 1.01, 0.98, 0.97, 0.99, 0.95, 0.92, 0.9]


def taylorseer(order: int, interval: int) -> TaylorSeerCacheConfig:
    """In its lite mode blocks are skipped whole and the model's output is extrapolated: the step form."""
    return TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=3,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )


# of each case diffusers' configuration and ours; its hooks decide for each branch by itself
CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "fbcache": (FirstBlockCacheConfig(0.15), ("method=fbcache", "warmup_ratio=0", "threshold=0.15")),
    "fbcache, higher": (FirstBlockCacheConfig(0.3), ("method=fbcache", "warmup_ratio=0", "threshold=0.3")),
    # shares of the steps for which diffusers' rounding to the nearest and the authors' rounding down agree
    "magcache": (
        MagCacheConfig(0.105, max_skip_steps=3, retention_ratio=0.15, num_inference_steps=STEPS, mag_ratios=RATIOS),
        ("method=magcache", "threshold=0.105", "max_consecutive_skips=3", "warmup_ratio=0.15", f"gate.ratios={RATIOS}"),
    ),
    "magcache, K 1": (
        MagCacheConfig(9.0, max_skip_steps=1, retention_ratio=0.3, num_inference_steps=STEPS, mag_ratios=RATIOS),
        ("method=magcache", "threshold=9", "max_consecutive_skips=1", "warmup_ratio=0.3", f"gate.ratios={RATIOS}"),
    ),
    "taylorseer": (taylorseer(1, 2), ("method=taylorseer", "gate.interval=2", "warmup_steps=3")),
    "taylorseer, order 2": (
        taylorseer(2, 2),
        ("method=taylorseer", "gate.interval=2", "warmup_steps=3", "estimator.order=2"),
    ),
    # diffusers counts every third step from another place than TaylorSeer's authors
    "taylorseer, uneven": (
        taylorseer(2, 3),
        ("method=taylorseer", "gate=list", "gate.compute_steps=[0,1,2,4,7,10,13]", "estimator.order=2"),
    ),
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(tiny_config(*SMALL), Ranks())


@pytest.fixture
def pipeline() -> WanPipeline:
    """A fresh one, since diffusers' hooks keep residuals of the request before."""
    pipeline = WanPipeline.from_pretrained(tiny_config().model.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def watch(pipeline: WanPipeline) -> list[bool]:
    """Whether the last block ran, for each call of the transformer."""
    ran: list[bool] = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: ran.append(False))
    pipeline.transformer.blocks[-1].ffn.register_forward_hook(lambda *_: ran.__setitem__(-1, True))
    return ran


@pytest.mark.parametrize("case", CASES)
def test_schedule_and_latents_are_those_of_the_hooks(case: str, model: LoadedModel, pipeline: WanPipeline) -> None:
    hooks, ours = CASES[case]
    config = tiny_config(*SMALL, "cache.decide=per_branch", *(f"cache.{setting}" for setting in ours))
    ran = watch(pipeline)
    pipeline.transformer.enable_cache(hooks)
    expected = ask(pipeline, config, 5)

    engine = Engine(replace(model, config=config), Progress())
    result = engine.generate(make_request([PROMPT], "", 5, config.sampling))
    assert result.report
    assert [row["action"] != "skip" for row in result.report["steps"]] == ran
    assert {True, False} == set(ran[6:]), "the case must skip and compute to show anything"
    assert (result.latents - expected).abs().max() <= 1e-4 * expected.abs().max()
