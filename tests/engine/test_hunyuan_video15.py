"""HunyuanVideo 1.5 in the whole engine on one rank: what both diffusers pipelines give, from files to frames.

tests/distributed/test_hunyuan_video15.py has several ranks, tests/engine/test_hunyuan_video15_refusals.py what is
said of what cannot be run.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor

from engine.components.hunyuan_video15.parts import PARTS
from engine.denoise.guidance import all_lanes
from engine.errors import RankFailure
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from parallel.joint import JointAttentionProcessor
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.hunyuan15_inputs import (
    PLAIN,
    QUOTED,
    Asked,
    Checkpoints,
    generate,
    write_checkpoints,
)
from tests.support.parity import difference, pipeline_video
from tests.support.slow import all_slow_but

TASKS = ("text", "image")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return write_checkpoints(tmp_path_factory.mktemp("models"))


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
    "a high image": {"shape": "high"},
    "a high video": {"overrides": ["sampling.height=80", "sampling.width=32"]},
    "an image on its side": {"shape": "lying"},
}
TABLE = [(task, case) for task in TASKS for case in CASES] + [("image", case) for case in IMAGE_CASES]


def ask(checkpoints: Checkpoints, task: str, case: str) -> Asked:
    settings = dict((CASES | IMAGE_CASES)[case])
    return checkpoints.ask(task, *settings.pop("overrides", ()), **settings)


@pytest.mark.parametrize(
    ("task", "case"), all_slow_but([row for row in TABLE if row[0] == "text" or row[1] in IMAGE_CASES], TABLE)
)
def test_one_rank_gives_the_pipelines_latents(task: str, case: str, checkpoints: Checkpoints) -> None:
    asked = ask(checkpoints, task, case)
    (result,) = generate(Ranks(), [asked])
    assert difference(result.latents, pipeline_video(asked.config, asked.request)) <= 1e-5


def test_the_pipeline_chooses_the_recipes_sizes() -> None:
    """For pictures of their shape; a request may choose others."""
    choose = HunyuanVideo15ImageProcessor(vae_scale_factor=16).calculate_default_height_width
    assert (choose(9, 16, 640), choose(9, 16, 960)) == ((480, 848), (720, 1280))


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
        others["image"] = checkpoints.ask(task, shape="high")
    first, *results = generate(Ranks(), [checkpoints.ask(task), *others.values()])
    for name, result in zip(others, results, strict=True):
        assert difference(result.latents, first.latents) > 1e-3, name


def test_an_image_that_vanished_after_the_check(checkpoints: Checkpoints, tmp_path: Path) -> None:
    asked = checkpoints.ask("image")
    gone = asked.request.model_copy(update={"image": tmp_path / "gone.png"})
    with pytest.raises(RankFailure, match=r"--image .*gone\.png.* not there"):
        generate(Ranks(), [Asked(asked.config, gone)])


@pytest.mark.parametrize("task", TASKS)
def test_decoding_gives_the_pipelines_frames(task: str, checkpoints: Checkpoints) -> None:
    asked = checkpoints.ask(task)
    expected = pipeline_video(asked.config, asked.request, "np")[0]
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


def test_encoders_compute_in_the_dtype_that_is_asked_for(checkpoints: Checkpoints) -> None:
    exact, half = (checkpoints.ask("text", f"model.text_encoder_dtype={name}") for name in ("float32", "bfloat16"))
    for asked, dtype in ((exact, torch.float32), (half, torch.bfloat16)):
        with torch.inference_mode():
            (lane,) = PARTS.prompt_encoder(asked.config, Ranks(), False).encode(asked.request, 1, CollectiveMeter())
        assert lane["prompt_embeds"].dtype == lane["prompt_embeds_2"].dtype == dtype
    whole, rounded = generate(Ranks(), [exact])[0], generate(Ranks(), [half])[0]
    assert 1e-5 < difference(rounded.latents, whole.latents) < 0.3
