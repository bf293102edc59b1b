"""HunyuanVideo with an image: what its folder tells, and what is refused before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest

from engine.checks.preflight import preflight
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.request import Outputs, make_tasks
from parallel.degrees import Degrees
from parallel.place import Place
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.hunyuan_images import CONCAT, REPLACE, configured, write_models, write_pictures


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_models(folder) | {"text": write_hunyuan_checkpoint(folder / "text")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_the_facts(models: dict[str, Path]) -> None:
    concat, replaced = read_facts(models[CONCAT]), read_facts(models[REPLACE])
    assert concat.pipeline == replaced.pipeline == "HunyuanVideoImageToVideoPipeline"
    assert concat.latents_shape(129, 720, 1280) == replaced.latents_shape(129, 720, 1280) == (4, 33, 90, 160)
    assert (concat.num_branches(1.0), concat.num_branches(6.0), replaced.num_branches(6.0)) == (1, 2, 1)
    assert (concat.dropped_frames, replaced.dropped_frames) == (4, 0)


def refusal(config: Config, *images: Path, prompt: str = "x", negative_prompt: str = "", ranks: int = 1) -> str:
    tasks = make_tasks([prompt], negative_prompt, [0], config.sampling, Outputs(), *images)
    with pytest.raises(InvalidInput) as caught:
        preflight(config, tasks, Place(ranks))
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
        assert preflight(config, tasks, Place(4)).degrees == expected


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
