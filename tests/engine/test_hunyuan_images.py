"""HunyuanVideo with an image in the whole engine: what the diffusers pipeline gives, from files, on one rank and on
several, for both kinds of transformer."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoImageToVideoPipeline
from diffusers.utils import load_image
from PIL import Image
from transformers import PreTrainedTokenizerFast

from engine.components.hunyuan_video import HunyuanVideoDecoder
from engine.components.hunyuan_video_images import HunyuanVideoImagePromptEncoder
from engine.config import Config, load_config
from engine.engine import Engine, Result
from engine.errors import InvalidInput, RankFailure
from engine.loaded import load_model
from engine.models.facts import read_facts
from engine.preflight import preflight
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from engine.task import Outputs, make_tasks
from engine.video import drop_frames
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.conftest import ROOT, tiny_config
from tests.distributed.gang import Gang
from tests.engine.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.engine.hunyuan_image_checkpoint import write_hunyuan_image_checkpoint

CONCAT, REPLACE = "latent_concat", "token_replace"
KINDS = (CONCAT, REPLACE)
SHORT = "a red circle"  # with its end 4 tokens beside 288 or 144 of the image, which two and four ranks divide
LONG = "a blue square moving slowly left on the navy background"  # 11 tokens, which they do not
NEGATIVE = "slowly moving"
CACHED = ("cache.method=dicache", "cache.threshold=0.1", "cache.gamma_max=1.5", "sampling.steps=12")

Case = tuple[Config, GenerationRequest]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    models = {kind: write_hunyuan_image_checkpoint(folder / kind, kind) for kind in KINDS}
    return models | {"text": write_hunyuan_checkpoint(folder / "text")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Smooth colours, upright where the video is wide; one lies on its side until its EXIF is read."""
    folder = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    for seed, name in enumerate(("lying", "other")):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC)
        picture.save(folder / f"{name}.png", exif=exif if name == "lying" else None)
    return {name: folder / f"{name}.png" for name in ("lying", "other")}


def configured(model: Path, *overrides: str) -> Config:
    """3 x 3 x 5 = 45 tokens, of which 15 are the first frame's."""
    guidance = 6 if model.name == REPLACE else 1
    small = ["height=48", "width=80", "frames=9", "steps=4", f"guidance={guidance}", "shift=7", "scheduler=euler"]
    sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=256")]
    return tiny_config(f"model.path={model}", "cache.method=none", *sampling, *overrides)


def asked(config: Config, image: Path, *prompts: str, negative_prompt: str = "") -> GenerationRequest:
    return make_request(prompts, negative_prompt, 11, config.sampling, image)


def generate(ranks: Ranks, cases: Sequence[Case], output: Path | None = None) -> list[Result]:
    """One request after the other, on one loaded model."""
    model = load_model(cases[0][0], ranks)
    return [Engine(replace(model, config=config), Progress()).generate(request, output) for config, request in cases]


def pipeline_output(config: Config, request: GenerationRequest) -> tuple[torch.Tensor, np.ndarray]:
    """Final latents, with the first frame that the pipeline would cut off, and frames of the first video."""
    path = config.model.path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, subfolder="tokenizer")
    pipeline = HunyuanVideoImageToVideoPipeline.from_pretrained(path, tokenizer=tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    sampling, prompts = config.sampling, list(request.prompts)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=sampling.shift)
    distilled = pipeline.transformer.config.guidance_embeds
    guided = not distilled and sampling.guidance > 1
    latents = []

    def keep(pipeline: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        latents.append(tensors["latents"])
        return {}

    video = pipeline(
        image=[load_image(str(request.image))] * len(prompts),
        prompt=prompts,
        negative_prompt=request.negative_prompt if guided else None,
        true_cfg_scale=sampling.guidance if guided else 1.0,
        guidance_scale=sampling.guidance if distilled else 1.0,
        height=sampling.height,
        width=sampling.width,
        num_frames=sampling.frames,
        num_inference_steps=sampling.steps,
        max_sequence_length=sampling.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        callback_on_step_end=keep,
        output_type="np",
    ).frames
    return latents[-1], video[0]


def off(latents: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert latents.shape == expected.shape
    return float((latents - expected).abs().max() / expected.abs().max())


# kind, prompts, negative prompt, overrides
CASES: list[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = [
    (CONCAT, (LONG,), "", ()),
    (CONCAT, (LONG,), NEGATIVE, ("sampling.guidance=3",)),
    (CONCAT, (LONG,), "", ("sampling.guidance=3", "sampling.frames=5")),
    (CONCAT, (SHORT, LONG), "", ()),
    (CONCAT, (LONG,), "", ("sampling.max_sequence_length=8",)),
    (REPLACE, (LONG,), "", ()),
    (REPLACE, (SHORT, LONG), "", ("sampling.guidance=1", "sampling.frames=5")),
    (REPLACE, (LONG,), "", ("sampling.shift=17", "sampling.max_sequence_length=8")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_gives_the_pipelines_latents(kind: str, models: dict[str, Path], files: dict[str, Path]) -> None:
    cases = []
    for _, prompts, negative_prompt, overrides in (case for case in CASES if case[0] == kind):
        config = configured(models[kind], *overrides)
        cases.append((config, asked(config, files["lying"], *prompts, negative_prompt=negative_prompt)))
    for case, result in zip(cases, generate(Ranks(), cases), strict=True):
        assert off(result.latents, pipeline_output(*case)[0]) <= 1e-5, case[0].sampling


def test_a_guided_pair_of_prompts_is_two_requests(models: dict[str, Path], files: dict[str, Path]) -> None:
    """The pipeline has one black image for any number of prompts, and fails; the noise of the first is the same."""
    config = configured(models[CONCAT], "sampling.guidance=3")
    requests = [
        asked(config, files["lying"], *prompts, negative_prompt=NEGATIVE) for prompts in ((SHORT, LONG), (SHORT,))
    ]
    both, alone = generate(Ranks(), [(config, request) for request in requests])
    assert off(both.latents[:1], alone.latents) <= 1e-5
    assert off(both.latents[1:], alone.latents) > 1e-2


LAYOUTS = {
    REPLACE: [Degrees(ulysses=2), Degrees(ring=2), Degrees(ulysses=2, ring=2)],
    CONCAT: [Degrees(ring=2), Degrees(cfg=2), Degrees(cfg=2, ulysses=2), Degrees(ulysses=2, ring=2)],
}


def layout_cases(kind: str, degrees: Degrees, model: Path, image: Path) -> list[Case]:
    """Both lengths of prompt, without the cache and with it; two branches where the layout splits them."""
    guidance = ("sampling.guidance=3",) if degrees.cfg == 2 else ()
    cases = []
    for prompt, cache in ((SHORT, ()), (LONG, ()), (LONG, CACHED)):
        config = configured(model, *guidance, *cache)
        cases.append((config, asked(config, image, prompt)))
    return cases


@pytest.fixture(scope="module")
def alone(models: dict[str, Path], files: dict[str, Path]) -> dict[tuple[str, int], list[Result]]:
    """Of one rank, by kind and number of branches."""
    layouts = {(kind, degrees.cfg): degrees for kind in KINDS for degrees in LAYOUTS[kind]}
    return {
        key: generate(Ranks(), layout_cases(key[0], degrees, models[key[0]], files["lying"]))
        for key, degrees in layouts.items()
    }


def actions(report: dict[str, Any] | None) -> list[str]:
    assert report
    return [row["action"] for row in report["steps"]]


@pytest.mark.parametrize(("kind", "degrees"), [pytest.param(k, d, id=f"{k}-{d}") for k in KINDS for d in LAYOUTS[k]])
def test_several_ranks_decide_and_make_the_same(
    gang: Gang,
    kind: str,
    degrees: Degrees,
    models: dict[str, Path],
    files: dict[str, Path],
    alone: dict[tuple[str, int], list[Result]],
) -> None:
    expected = alone[kind, degrees.cfg]
    assert set(actions(expected[-1].report)) == {"warmup", "skip", "compute"}, actions(expected[-1].report)
    by_rank = gang.run(generate, degrees, layout_cases(kind, degrees, models[kind], files["lying"]))
    for rank, results in enumerate(by_rank):
        for result, reference in zip(results, expected, strict=True):
            assert off(result.latents, reference.latents) <= 1e-5
            if rank == 0:
                assert actions(result.report) == actions(reference.report)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_matters(kind: str, models: dict[str, Path], files: dict[str, Path]) -> None:
    """Else parity could hold for a model that does not look."""
    config = configured(models[kind])
    variants = [
        asked(config, files["lying"], LONG),
        asked(config, files["other"], LONG),
        asked(config, files["lying"], SHORT),
    ]
    cases = [(config, request) for request in variants]
    for override in ("sampling.guidance=3", "sampling.shift=3", "sampling.max_sequence_length=5"):
        other = configured(models[kind], override)
        cases.append((other, asked(other, files["lying"], LONG)))
    if kind == CONCAT:
        guided = configured(models[kind], "sampling.guidance=3")
        cases.append((guided, asked(guided, files["lying"], LONG, negative_prompt=NEGATIVE)))
    latents = [result.latents for result in generate(Ranks(), cases)]
    for i, one in enumerate(latents):
        for another in latents[i + 1 :]:
            assert off(one, another) > 1e-3


def test_the_prompt_sees_the_image(models: dict[str, Path], files: dict[str, Path]) -> None:
    for kind, image_tokens in ((CONCAT, 288), (REPLACE, 144)):
        config = configured(models[kind])
        encoder = HunyuanVideoImagePromptEncoder(config, Ranks())
        with torch.no_grad():
            first, other = (
                encoder.encode(asked(config, files[name], SHORT), 1, CollectiveMeter())[0]
                for name in ("lying", "other")
            )
        assert first["prompt_embeds"].shape[1] == image_tokens + 256 - 4, "of the template's end a line break stays"
        assert int(first["prompt_attention_mask"].sum()) == image_tokens + 3 + 1
        difference = (first["prompt_embeds"] - other["prompt_embeds"])[0].abs().amax(dim=1)
        assert (difference[: image_tokens + 4] > 1e-3).all(), "the words stand behind the image"


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_gives_the_pipelines_frames(
    kind: str, models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    config = configured(models[kind], "sampling.frames=25")  # 7 latent frames: several of diffusers' pieces of time
    request = asked(config, files["lying"], LONG)
    latents, expected = pipeline_output(config, request)
    assert len(expected) == (21 if kind == CONCAT else 25)
    decoded = HunyuanVideoDecoder(config, Ranks()).decode(latents[0], CollectiveMeter())
    frames = torch.cat(list(drop_frames(decoded, read_facts(models[kind]).dropped_frames)))
    assert frames.shape == expected.shape
    assert expected.std() > 0.01, "a flat picture would hide mistakes"
    assert np.abs(frames.numpy() - 255.0 * expected).max() <= 0.51, "rounding to 8 bits is all that may differ"
    generate(Ranks(), [(config, request)], tmp_path / "video.mp4")
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert len(list(container.decode(video=0))) == len(expected)


def test_frames_are_dropped_whatever_the_chunks() -> None:
    frames = torch.arange(9)[:, None, None, None]
    for sizes in ([9], [1, 8], [4, 4, 1], [2, 3, 4]):
        for count in (0, 1, 4, 9):
            chunks = list(drop_frames((chunk for chunk in frames.split(sizes)), count))
            assert [int(frame) for chunk in chunks for frame in chunk] == list(range(count, 9))


def test_an_image_that_vanished_after_the_check(models: dict[str, Path], tmp_path: Path) -> None:
    config = configured(models[REPLACE])
    with pytest.raises(RankFailure, match=r"--image .*gone\.png.* not there"):
        generate(Ranks(), [(config, asked(config, tmp_path / "gone.png", SHORT))])


def test_the_facts(models: dict[str, Path]) -> None:
    concat, replaced = read_facts(models[CONCAT]), read_facts(models[REPLACE])
    assert concat.pipeline == replaced.pipeline == "HunyuanVideoImageToVideoPipeline"
    assert concat.latents_shape(129, 720, 1280) == replaced.latents_shape(129, 720, 1280) == (4, 33, 90, 160)
    assert (concat.num_branches(1.0), concat.num_branches(6.0), replaced.num_branches(6.0)) == (1, 2, 1)
    assert (concat.dropped_frames, replaced.dropped_frames) == (4, 0)


def refusal(config: Config, *images: Path, prompt: str = "x", negative_prompt: str = "", ranks: int = 1) -> str:
    tasks = make_tasks([prompt], negative_prompt, [0], config.sampling, Outputs(), *images)
    with pytest.raises(InvalidInput) as caught:
        preflight(config, tasks, ranks)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("kind", "images", "overrides", "words"),
    [
        (CONCAT, [], (), ["from images", "give --image."]),
        (REPLACE, [], (), ["from images", "give --image."]),
        ("text", ["other"], (), ["--image", "other.png", "text alone"]),
        (CONCAT, ["lying", "other"], (), ["--last-image", "other.png", "first one alone"]),
        (REPLACE, ["lying", "other"], (), ["--last-image", "other.png", "first one alone"]),
        (CONCAT, ["lying"], ("sampling.frames=1",), ["sampling.frames is 1", "after the image", "5 or more"]),
        (REPLACE, ["lying"], ("sampling.frames=1",), ["sampling.frames is 1", "after the image", "5 or more"]),
        (REPLACE, ["lying"], ("sampling.max_sequence_length=257",), ["is 257", "HunyuanVideo-I2V", "at most 256"]),
        (REPLACE, ["lying"], ("sampling.scheduler=unipc",), ["sampling.scheduler is unipc", "use euler"]),
        (REPLACE, ["lying"], ("parallel.cfg=2",), ["parallel.cfg is 2", "distilled", "cfg=1"]),
        (CONCAT, ["lying"], ("parallel.cfg=2",), ["parallel.cfg is 2", "sampling.guidance is 1", "guidance above 1"]),
    ],
)
def test_what_does_not_fit(
    kind: str,
    images: list[str],
    overrides: tuple[str, ...],
    words: list[str],
    models: dict[str, Path],
    files: dict[str, Path],
) -> None:
    ranks = 2 if "parallel.cfg=2" in overrides else 1
    sentence = refusal(configured(models[kind], *overrides), *(files[image] for image in images), ranks=ranks)
    for word in words:
        assert word in sentence, sentence


def test_words_that_do_not_fit(models: dict[str, Path], files: dict[str, Path]) -> None:
    config = configured(models[REPLACE])
    assert "--negative-prompt is 'blurry'" in refusal(config, files["other"], negative_prompt="blurry")
    assert "--prompt has <image> in it" in refusal(config, files["other"], prompt="an <image> of a cat")
    guided = configured(models[CONCAT], "sampling.guidance=3")
    sentence = refusal(guided, files["other"], negative_prompt="<image>")
    assert "--negative-prompt has <image> in it" in sentence and "leave it out" in sentence


def test_what_fits_passes(models: dict[str, Path], files: dict[str, Path]) -> None:
    for kind, override, expected in (
        (CONCAT, "sampling.guidance=3", Degrees(cfg=2, ulysses=2)),
        (CONCAT, "sampling.guidance=1", Degrees(ulysses=4)),
        (REPLACE, "sampling.guidance=6", Degrees(ulysses=4)),
    ):
        config = configured(models[kind], override, "parallel=auto", "sampling.frames=5")
        tasks = make_tasks(["x"], "", [0], config.sampling, Outputs(), files["lying"])
        assert preflight(config, tasks, 4).degrees == expected


@pytest.mark.parametrize(
    "missing",
    [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "image_processor/preprocessor_config.json",
        "tokenizer/tokenizer.json",
    ],
)
def test_a_model_that_lacks_a_part(
    missing: str, models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models[REPLACE], tmp_path / REPLACE))
    (folder / missing).unlink()
    sentence = refusal(configured(folder), files["other"])
    assert missing.split("/")[0] in sentence and "download" in sentence


@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        (REPLACE, "image_condition_type", None, ["image_condition_type None", "latent_concat or token_replace"]),
        (REPLACE, "image_condition_type", "latent_concat", ["takes 4 channels", "given 9"]),
        (CONCAT, "image_condition_type", "token_replace", ["takes 9 channels", "given 4"]),
    ],
)
def test_another_kind_of_transformer(
    kind: str,
    key: str,
    value: object,
    words: list[str],
    models: dict[str, Path],
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(models[kind], tmp_path / kind))
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    sentence = refusal(configured(folder), files["other"])
    for word in (*words, "does not run"):
        assert word in sentence, sentence


@pytest.mark.parametrize(
    ("name", "kind", "guidance", "branches"),
    [("hunyuan-video-i2v", REPLACE, 6.0, 1), ("hunyuan-video-i2v-33ch", CONCAT, 1.0, 1)],
)
def test_the_recipe_fits(
    name: str, kind: str, guidance: float, branches: int, models: dict[str, Path], files: dict[str, Path]
) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml", [f"model.path={models[kind]}", "runtime.device=cpu"])
    preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs(), files["other"]), 4)
    sampling, cache = config.sampling, config.cache
    assert (sampling.steps, sampling.guidance, sampling.shift, sampling.fps) == (50, guidance, 7.0, 24)
    assert read_facts(models[kind]).num_branches(sampling.guidance) == branches
    assert (cache.method, cache.threshold, cache.gamma_min, cache.gamma_max) == ("dicache", 0.1, 1.0, 1.5)
