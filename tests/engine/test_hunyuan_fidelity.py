"""I4 for HunyuanVideo: ``dicache`` takes the decisions and gammas that its authors publish for this model."""

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline

from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.hunyuan_oracle import Prompt, run_hunyuan_oracle
from tests.support.oracle import OracleRun
from tests.support.small_model import tiny_config

PROMPT = "a blue square moving slowly left"
PUBLISHED = (
    "cache.threshold=0.1",
    "cache.gate.at_threshold=skip",
    "cache.estimator.gamma_max=1.5",
    "cache.warmup_ratio=0.2",
)
CASES = {
    "published": (),
    "tight gamma": ("cache.estimator.gamma_max=1.05",),
    "lower threshold": ("cache.threshold=0.05",),
    "deep probe": ("cache.probe_depth=2",),
    "no warm-up": ("cache.warmup_ratio=0",),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hunyuan_checkpoint(tmp_path_factory.mktemp("models") / "HunyuanVideo")


def configured(model: Path, *overrides: str) -> Config:
    small = ["height=48", "width=80", "frames=9", "steps=20", "guidance=6", "shift=7", "scheduler=euler"]
    sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=256")]
    return tiny_config(f"model.path={model}", *sampling, *PUBLISHED, *overrides)


def generate(config: Config) -> Result:
    return Engine(load_model(config, Ranks()), Progress()).generate(make_request([PROMPT], "", 5, config.sampling))


def ask_oracle(config: Config, threshold: float | None = None) -> OracleRun:
    pipeline = HunyuanVideoPipeline.from_pretrained(config.model.path)
    sampling, cache = config.sampling, config.cache
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=sampling.shift)
    return run_hunyuan_oracle(
        pipeline.transformer,
        scheduler,
        torch.randn((1, 4, 3, 6, 10), generator=torch.Generator("cpu").manual_seed(5)),
        Prompt(*pipeline.encode_prompt(prompt=PROMPT, max_sequence_length=sampling.max_sequence_length)),
        sampling.guidance,
        sampling.steps,
        cache.threshold if threshold is None else threshold,
        cache.warmup_ratio,
        cache.probe_depth,
        cache.estimator.gamma_max,
    )


def check_alike(result: Result, oracle: OracleRun) -> None:
    """Actions equal, indicators and gammas to 1e-5, latents to 1e-5 of the largest."""
    assert result.report
    rows = result.report["steps"]
    assert [(r["step"], r["branch"], r["action"]) for r in rows] == [(r.step, r.branch, r.action) for r in oracle.rows]
    for row, expected in zip(rows, oracle.rows, strict=True):
        for ours, theirs in ((row["indicator"], expected.indicator), (row["gamma"], expected.gamma)):
            assert ours == (None if theirs is None else pytest.approx(theirs, rel=1e-5)), (row, expected)
    assert (result.latents - oracle.latents).abs().max() <= 1e-5 * oracle.latents.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_actions_indicators_gammas_and_latents_are_the_oracles(case: str, model: Path) -> None:
    config = configured(model, *CASES[case])
    oracle = ask_oracle(config)
    actions = [row.action for row in oracle.rows]
    assert {"skip", "compute"} <= set(actions) and ("warmup" in actions) == (config.cache.warmup_ratio > 0)
    gammas = [row.gamma for row in oracle.rows if row.gamma is not None]
    assert any(1 < gamma < config.cache.estimator.gamma_max for gamma in gammas) or case == "tight gamma", gammas
    check_alike(generate(config), oracle)


def test_the_oracle_without_skips_is_the_pipeline(model: Path) -> None:
    config = configured(model, "cache.warmup_ratio=1", "sampling.steps=4")
    pipeline = HunyuanVideoPipeline.from_pretrained(config.model.path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=PROMPT,
        height=48,
        width=80,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=6.0,
        max_sequence_length=256,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).frames
    latents = ask_oracle(config).latents
    assert (latents - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_threshold_that_is_hit_exactly_skips(model: Path) -> None:
    """The first computed step after the warm-up: what was accumulated by then does not depend on the threshold."""
    measured = generate(configured(model))
    assert measured.report
    first = next(row for row in measured.report["steps"] if row["action"] == "compute")
    at_it = f"cache.threshold={first['accumulated']!r}"
    actions = {}
    for choice in ("skip", "compute"):
        result = generate(configured(model, at_it, f"cache.gate.at_threshold={choice}"))
        assert result.report
        assert result.report["steps"][first["step"]]["accumulated"] == first["accumulated"], "hit, bit for bit"
        actions[choice] = result.report["steps"][first["step"]]["action"]
    assert actions == {"skip": "skip", "compute": "compute"}

    # the oracle adds up in another order, so the value that it hits is its own
    rows = ask_oracle(configured(model)).rows
    accumulated = 0.0
    for row in rows[: first["step"] + 1]:
        accumulated += row.indicator or 0.0
    oracle = ask_oracle(configured(model), accumulated)
    assert oracle.rows[first["step"]].action == "skip"
    check_alike(generate(configured(model, at_it)), oracle)
