"""HunyuanVideo 1.5 on several ranks: what the diffusers pipelines give, and one rank's schedule, with weights shared
out, too, and after a run that broke off."""

from pathlib import Path
from typing import Any

import av
import pytest

from engine.components.hunyuan_video15.parts import PARTS
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.broken_off import BreaksOff, BrokenOff
from tests.support.gang import Gang
from tests.support.hunyuan15_inputs import (
    PLAIN,
    Asked,
    Checkpoints,
    generate,
    write_checkpoints,
)
from tests.support.parity import difference, pipeline_video
from tests.support.slow import all_slow_but

LAYOUTS = [Degrees(ulysses=2), Degrees(ring=2), Degrees(cfg=2), Degrees(cfg=2, ulysses=2), Degrees(ulysses=2, ring=2)]
CACHE = ("cache.method=dicache", "cache.threshold=0.1", "cache.estimator.gamma_max=1.5", "sampling.steps=12")
SQUARE = ("sampling.height=64", "sampling.width=64")  # 48 video tokens, which all layouts divide; by default 45
CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "text, two prompts": ("text", (), {"prompts": (PLAIN, "a sun")}),
    "text, divisible": ("text", SQUARE, {"prompts": ("a red sun",), "negative_prompt": "the text"}),
    "text, cached": ("text", CACHE, {}),
    "image": ("image", (), {"shape": "lying"}),
    "image, cached": ("image", CACHE, {}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return write_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def asked(checkpoints: Checkpoints) -> dict[str, Asked]:
    return {name: checkpoints.ask(task, *over, **settings) for name, (task, over, settings) in CASES.items()}


@pytest.fixture(scope="module")
def alone(asked: dict[str, Asked]) -> dict[str, Result]:
    return dict(zip(asked, generate(Ranks(), list(asked.values())), strict=True))


def count_text_tokens(asked: Asked) -> list[int]:
    """Of each lane."""
    encoder = PARTS.prompt_encoder(asked.config, Ranks(), False)
    lanes = encoder.encode(asked.request, 2, CollectiveMeter())
    return [int(lane["prompt_embeds_mask"].sum() + lane["prompt_embeds_mask_2"].sum()) for lane in lanes]


def test_texts_divide_and_do_not(asked: dict[str, Asked]) -> None:
    """Among the ranks, two or four."""
    remainders = {name: [n % 4 for n in count_text_tokens(asked[name])] for name in asked if name.startswith("text, ")}
    assert remainders["text, divisible"] == [0, 0]
    assert set(remainders["text, two prompts"]) == {1, 2, 3}


def actions(result: Result) -> list[str]:
    assert result.report
    return [row["action"] for row in result.report["steps"]]


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_ranks_change_neither_schedule_nor_latents(
    degrees: Degrees, gang: Gang, asked: dict[str, Asked], alone: dict[str, Result]
) -> None:
    for results in gang.run(generate, degrees, list(asked.values())):
        for (name, one), result in zip(alone.items(), results, strict=True):
            assert difference(result.latents, one.latents) <= 1e-5, name
            if result.report:  # on the first rank
                assert actions(result) == actions(one), name


def test_caches_compute_and_skip(alone: dict[str, Result]) -> None:
    for name in ("text, cached", "image, cached"):
        assert {"warmup", "skip", "compute"} == set(actions(alone[name])), name


def test_one_rank_gives_the_pipelines_latents(asked: dict[str, Asked], alone: dict[str, Result]) -> None:
    """And so do several, which give one rank's."""
    for name in ("text, two prompts", "text, divisible", "image"):
        expected = pipeline_video(asked[name].config, asked[name].request)
        assert difference(alone[name].latents, expected) <= 1e-5, name


@pytest.mark.parametrize("degrees", all_slow_but([Degrees(cfg=2)], [Degrees(ulysses=2), Degrees(cfg=2)]), ids=str)
def test_weights_may_be_shared_out(
    degrees: Degrees, gang: Gang, checkpoints: Checkpoints, alone: dict[str, Result]
) -> None:
    names = ("text, cached", "image, cached")
    sharded = [checkpoints.ask(CASES[name][0], *CACHE, "parallel.shard_weights=true") for name in names]
    for results in gang.run(generate, degrees, sharded):
        for name, result in zip(names, results, strict=True):
            assert difference(result.latents, alone[name].latents) <= 1e-5, name
            if result.report:
                assert actions(result) == actions(alone[name]), name
                whole = alone[name].report["totals"]["weight_bytes_per_rank"]
                assert result.report["totals"]["weight_bytes_per_rank"] < 0.6 * whole


def break_off_and_resume(ranks: Ranks, asked: Asked, folder: Path) -> Result:
    model = load_model(asked.config, ranks)
    with pytest.raises(BrokenOff):
        Engine(model, BreaksOff(7)).generate(asked.request, checkpoint=folder)
    return Engine(model, BreaksOff(None)).generate(asked.request, checkpoint=folder)


def test_a_resumed_run_makes_the_same(
    gang: Gang, checkpoints: Checkpoints, alone: dict[str, Result], tmp_path: Path
) -> None:
    asked, expected = checkpoints.ask("image", *CACHE, "checkpoint.every=2"), alone["image, cached"]
    results = gang.run(break_off_and_resume, Degrees(cfg=2), asked, tmp_path)
    assert results[0].report and results[0].report["resumed_at"] == [6]
    assert actions(results[0]) == actions(expected)
    for result in results:
        assert difference(result.latents, expected.latents) <= 1e-5


def test_every_rank_gets_through_decoding(gang: Gang, asked: dict[str, Asked], tmp_path: Path) -> None:
    """The first decodes alone."""
    file = tmp_path / "video.mp4"
    (first,), *others = gang.run(generate, Degrees(ring=3), [asked["image"]], file)
    assert first.report and not any(other.report for (other,) in others)
    with av.open(str(file)) as container:
        assert len(list(container.decode(video=0))) == asked["image"].config.sampling.frames
