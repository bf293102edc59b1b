"""HunyuanVideo 1.5 in the whole engine on one rank: what both diffusers pipelines give, from files to frames.

tests/distributed/test_hunyuan_video15.py has several ranks, tests/engine/test_hunyuan_video15_refusals.py what is
said of what cannot be run.
"""

from typing import Any

import pytest
import torch

from engine.components.hunyuan_video15 import PARTS
from engine.config import load_config
from engine.guidance import all_lanes
from engine.loaded import load_model
from engine.models.facts import read_facts
from engine.preflight import preflight
from engine.task import Outputs, make_tasks
from parallel.degrees import Degrees
from parallel.joint import JointAttentionProcessor
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.conftest import ROOT
from tests.engine.hunyuan15_inputs import (
    PLAIN,
    QUOTED,
    Asked,
    Checkpoints,
    ask_pipeline,
    generate,
    load_pipeline,
    off,
    write_checkpoints,
)

TASKS = ("text", "image")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return write_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pipelines(checkpoints: Checkpoints) -> dict[str, Any]:
    return {task: load_pipeline(task, checkpoints) for task in TASKS}


# of both tasks
CASES: dict[str, dict[str, Any]] = {
    "text in quotation marks": {},
    "no text in quotation marks": {"prompts": [PLAIN]},
    "no negative prompt": {"negative_prompt": ""},
    "text in quotation marks to keep away from": {"prompts": [PLAIN], "negative_prompt": QUOTED},
    "two prompts": {"prompts": [PLAIN, QUOTED]},
    "no guidance": {"overrides": ["sampling.guidance=1"]},
    "another guidance and shift": {"overrides": ["sampling.guidance=3", "sampling.shift=9"]},
    "one frame": {"overrides": ["sampling.frames=1"]},
    "cut text": {"overrides": ["sampling.max_sequence_length=7"]},
}
IMAGE_CASES: dict[str, dict[str, Any]] = {
    "an image of another shape": {"picture": "high", "overrides": ["sampling.height=64", "sampling.width=64"]},
    "an image on its side": {"picture": "lying"},
}
TABLE = [(task, case) for task in TASKS for case in CASES] + [("image", case) for case in IMAGE_CASES]


def ask(checkpoints: Checkpoints, task: str, case: str) -> Asked:
    settings = dict((CASES | IMAGE_CASES)[case])
    return checkpoints.ask(task, *settings.pop("overrides", ()), **settings)


@pytest.mark.parametrize(("task", "case"), TABLE)
def test_one_rank_gives_the_pipelines_latents(
    task: str, case: str, checkpoints: Checkpoints, pipelines: dict[str, Any]
) -> None:
    asked = ask(checkpoints, task, case)
    (result,) = generate(Ranks(), [asked])
    assert off(result.latents, ask_pipeline(pipelines[task], asked)) <= 1e-5


def test_an_image_is_cropped_to_any_size(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline chooses the size by the image; the request may choose another."""
    pipeline = load_pipeline("image", checkpoints)
    monkeypatch.setattr(pipeline.video_processor, "calculate_default_height_width", lambda **_: (80, 32))
    asked = checkpoints.ask("image", "sampling.height=80", "sampling.width=32")
    (result,) = generate(Ranks(), [asked])
    assert off(result.latents, ask_pipeline(pipeline, asked)) <= 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_what_is_asked_for_matters(task: str, checkpoints: Checkpoints) -> None:
    """Else parity could hold for a model that does not look."""
    others = {
        "prompt": checkpoints.ask(task, prompts=[QUOTED.replace("sign", "circle")]),
        "quotation marks": checkpoints.ask(task, prompts=[QUOTED.replace('"', "'")]),
        "text in them": checkpoints.ask(task, prompts=[QUOTED.replace("good day", "bye")]),
        "negative prompt": checkpoints.ask(task, negative_prompt="blue"),
        "guidance": checkpoints.ask(task, "sampling.guidance=1"),
        "shift": checkpoints.ask(task, "sampling.shift=9"),
        "length": checkpoints.ask(task, "sampling.max_sequence_length=7"),
    }
    if task == "image":
        others["image"] = checkpoints.ask(task, picture="high")
    first, *results = generate(Ranks(), [checkpoints.ask(task), *others.values()])
    for name, result in zip(others, results, strict=True):
        assert off(result.latents, first.latents) > 1e-3, name


@pytest.mark.parametrize("task", TASKS)
def test_decoding_gives_the_pipelines_frames(task: str, checkpoints: Checkpoints, pipelines: dict[str, Any]) -> None:
    asked = checkpoints.ask(task)
    expected = torch.as_tensor(ask_pipeline(pipelines[task], asked, "np")[0])
    (result,) = generate(Ranks(), [asked])
    chunks = list(PARTS.video_decoder(asked.config, Ranks()).decode(result.latents[0], CollectiveMeter()))
    assert len(chunks) > 1, "the file is written as the frames come"
    frames = torch.cat(chunks)
    assert frames.shape == expected.shape and frames.dtype == torch.uint8
    assert expected.std() > 0.01, "a flat picture would hide mistakes"
    assert (frames - 255.0 * expected).abs().max() <= 0.51, "rounding to 8 bits is all that may differ"


def test_lanes_are_in_order(checkpoints: Checkpoints) -> None:
    asked = checkpoints.ask("text", prompts=[PLAIN, QUOTED], negative_prompt='a "blue square"')
    encoder = PARTS.prompt_encoder(asked.config, Ranks(), False)
    encoded = encoder.encode(asked.request, 2, CollectiveMeter())
    assert [lane.branch for lane in all_lanes(2, 2)] == ["cond", "uncond"] * 2
    lengths = [int(lane["prompt_embeds_mask"].sum()) for lane in encoded]
    glyphs = [int(lane["prompt_embeds_mask_2"].sum()) for lane in encoded]
    assert len({*lengths[:3]}) == 3 and lengths[3] == lengths[1]
    # bytes and an end of sequence
    assert glyphs == [0, len('Text "blue square". ') + 1, len('Text "hello". Text "good day". ') + 1, glyphs[1]]
    assert encoded[0]["prompt_embeds"].shape == (1, 100, 24) and encoded[0]["prompt_embeds_2"].shape == (1, 256, 20)


@pytest.mark.parametrize("task", TASKS)
def test_attention_takes_no_mask(task: str, checkpoints: Checkpoints) -> None:
    """One of all tokens by all would not fit a GPU at 720p."""
    model = load_model(checkpoints.ask(task).config, Ranks())
    for block in model.adapter.transformer.transformer_blocks:
        assert isinstance(block.attn.processor, JointAttentionProcessor)


@pytest.mark.parametrize(("task", "image_input"), [("text", "none"), ("image", "channels")])
def test_the_facts(task: str, image_input: str, checkpoints: Checkpoints) -> None:
    facts = read_facts(getattr(checkpoints, task))
    assert (facts.num_heads, facts.num_layers, facts.image_input) == (4, 2, image_input)
    assert (facts.patch_size, facts.vae_scale_spatial, facts.vae_scale_temporal) == ((1, 1, 1), 16, 4)
    assert (facts.num_branches(6.0), facts.num_branches(1.0)) == (2, 1)
    assert facts.latents_shape(121, 720, 1280) == (4, 31, 45, 80)


RECIPES = {
    "hunyuan-video15-t2v-480p": ("text", 480, 848, 5.0),
    "hunyuan-video15-t2v-720p": ("text", 720, 1280, 9.0),
    "hunyuan-video15-i2v-480p": ("image", 480, 848, 5.0),
    "hunyuan-video15-i2v-720p": ("image", 720, 1280, 7.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_fit(recipe: str, checkpoints: Checkpoints) -> None:
    task, *expected = RECIPES[recipe]
    path = getattr(checkpoints, task)
    config = load_config(ROOT / "configs" / f"{recipe}.yaml", [f"model.path={path}", "runtime.device=cpu"])
    sampling, cache = config.sampling, config.cache
    tasks = make_tasks(["x"], "blurry", [0], sampling, Outputs(), checkpoints.wide if task == "image" else None)
    assert preflight(config, tasks, 4).degrees == Degrees(cfg=2, ulysses=2)
    assert [sampling.height, sampling.width, sampling.shift] == expected
    assert (sampling.frames, sampling.fps, sampling.steps, sampling.guidance) == (121, 24, 50, 6.0)
    assert sampling.max_sequence_length == 1000
    assert (cache.method, cache.threshold, cache.gamma_min, cache.gamma_max) == ("dicache", 0.1, 1.0, 1.5)
