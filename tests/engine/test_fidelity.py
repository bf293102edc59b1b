"""I4: ``dicache`` takes the decisions and gammas of the published algorithm, per branch, in the whole engine."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline

from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.oracle import OracleRun, run_oracle
from tests.support.small_model import PROMPT, tiny_config

CASES = {
    "paper": ("cache.threshold=0.2",),
    "code": ("cache.threshold=0.08",),
    "tight gamma": ("cache.threshold=0.3", "cache.estimator.gamma_max=1.5"),
    "deep probe": ("cache.threshold=0.2", "cache.probe_depth=3"),
    "no warm-up": ("cache.threshold=0.2", "cache.warmup_ratio=0"),
    "no guidance": ("cache.threshold=0.2", "sampling.guidance=1"),
    "euler": ("cache.threshold=0.2", "sampling.scheduler=euler", "sampling.shift=5"),
}


@pytest.mark.parametrize("case", CASES)
def test_actions_indicators_gammas_and_latents_are_the_oracles(case: str) -> None:
    config = tiny_config("sampling.steps=30", "cache.decide=per_branch", *CASES[case])
    request = make_request([PROMPT], "", 5, config.sampling)
    result = Engine(load_model(config, Ranks()), Progress()).generate(request)
    oracle = _oracle(config)

    assert result.report
    rows = result.report["steps"]
    assert [(r["step"], r["branch"], r["action"]) for r in rows] == [(r.step, r.branch, r.action) for r in oracle.rows]
    seen = {"skip", "compute"} if case == "no warm-up" else {"warmup", "skip", "compute"}
    assert {r["action"] for r in rows} == seen
    for row, expected in zip(rows, oracle.rows, strict=True):
        for ours, theirs in ((row["indicator"], expected.indicator), (row["gamma"], expected.gamma)):
            assert (ours is None) == (theirs is None), (row, expected)
            assert ours is None or abs(ours - theirs) <= 1e-4 * max(1, abs(theirs))
    assert (result.latents - oracle.latents).abs().max() <= 1e-4 * oracle.latents.abs().max()


def _oracle(config) -> OracleRun:
    pipeline = WanPipeline.from_pretrained(config.model.path)
    sampling, cache = config.sampling, config.cache
    guided = sampling.guidance > 1
    cond, uncond = pipeline.encode_prompt(
        PROMPT, "", do_classifier_free_guidance=guided, max_sequence_length=sampling.max_sequence_length
    )
    scheduler = (
        UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=sampling.shift)
        if sampling.scheduler == "unipc"
        else FlowMatchEulerDiscreteScheduler(shift=sampling.shift)
    )
    noise = torch.randn((1, 16, 5, 8, 8), generator=torch.Generator("cpu").manual_seed(5))
    return run_oracle(
        pipeline.transformer,
        scheduler,
        noise,
        cond,
        uncond if guided else None,
        sampling.guidance,
        sampling.steps,
        cache.threshold,
        cache.warmup_ratio,
        cache.probe_depth,
        cache.estimator.gamma_max,
    )
