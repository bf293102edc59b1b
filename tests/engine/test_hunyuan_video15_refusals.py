"""What a HunyuanVideo 1.5 model cannot do, or what its folder lacks, is one sentence before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checks.preflight import preflight
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.request import Outputs, make_tasks
from parallel.degrees import Degrees
from parallel.place import Place
from tests.support.hunyuan15_inputs import Checkpoints, write_checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return write_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folders(checkpoints: Checkpoints, tmp_path: Path) -> dict[str, Path]:
    """Copies to break."""
    return {task: Path(shutil.copytree(getattr(checkpoints, task), tmp_path / task)) for task in ("text", "image")}


def refusal(config: Config, ranks: int, *images: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        preflight(config, make_tasks(["x"], "blurry", [0], config.sampling, Outputs(), *images), Place(ranks))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("task", "pictures", "overrides", "ranks", "words"),
    [
        ("text", ["wide"], [], 1, ["--image is", "wide.png", "text alone"]),
        ("image", [], [], 1, ["from images", "give --image."]),
        ("image", ["wide", "high"], [], 1, ["--last-image is", "high.png", "first one alone"]),
        ("text", [], ["sampling.height=72"], 1, ["sampling.height is 72", "multiple of 16", "64 or 80"]),
        ("text", [], ["sampling.frames=16"], 1, ["sampling.frames is 16", "4n+1", "13 or 17"]),
        ("text", [], ["sampling.scheduler=unipc"], 1, ["sampling.scheduler is unipc", "HunyuanVideo 1.5", "use euler"]),
        ("text", [], ["parallel.cfg=2", "sampling.guidance=1"], 2, ["parallel.cfg is 2", "cfg=1"]),
        ("text", [], ["parallel.ulysses=3"], 3, ["ulysses", "3", "4"]),
    ],
)
def test_what_does_not_fit(
    task: str, pictures: list[str], overrides: list[str], ranks: int, words: list[str], checkpoints: Checkpoints
) -> None:
    images = [getattr(checkpoints, picture) for picture in pictures]
    sentence = refusal(checkpoints.ask(task, *overrides).config, ranks, *images)
    for word in words:
        assert word in sentence, sentence


def test_what_fits_passes(checkpoints: Checkpoints) -> None:
    long = checkpoints.ask("text", "sampling.frames=8001", "sampling.max_sequence_length=1000").config
    tasks = make_tasks(["x"], "blurry", [0], long.sampling, Outputs())
    assert preflight(checkpoints.ask("text", "parallel=auto").config, tasks, Place(4)).degrees == Degrees(
        cfg=2, ulysses=2
    )
    preflight(long, tasks, Place(1))
    tasks = make_tasks(["x"], "", [0], long.sampling, Outputs(), checkpoints.lying)
    preflight(checkpoints.ask("image").config, tasks, Place(1))


def rewrite(file: Path, key: str, value: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))


@pytest.mark.parametrize("task", ["text", "image"])
@pytest.mark.parametrize(("key", "value"), [("use_meanflow", True), ("in_channels", 8), ("in_channels", 4)])
def test_another_kind_of_transformer(key: str, value: object, task: str, folders: dict[str, Path]) -> None:
    """Models of few steps and of super-resolution know a second timestep; the latter also have more channels."""
    rewrite(folders[task] / "transformer" / "config.json", key, value)
    with pytest.raises(InvalidInput, match=f"{value}.* does not run: use another"):
        read_facts(folders[task])


def test_a_transformer_from_before_meanflow(folders: dict[str, Path]) -> None:
    file = folders["text"] / "transformer" / "config.json"
    settings = json.loads(file.read_text())
    del settings["use_meanflow"]
    file.write_text(json.dumps(settings))
    read_facts(folders["text"])


@pytest.mark.parametrize(
    ("key", "value"), [("_class_name", "AdaptiveProjectedGuidance"), ("guidance_rescale", 0.7), ("stop", 0.5)]
)
def test_another_guidance(key: str, value: object, folders: dict[str, Path]) -> None:
    rewrite(folders["text"] / "guider" / "guider_config.json", key, value)
    with pytest.raises(InvalidInput, match=f"guider in .* has {key} {value}, but .*: use another"):
        read_facts(folders["text"])


@pytest.mark.parametrize(
    "missing",
    [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/chat_template.jinja",
        "tokenizer_2/tokenizer_config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "guider/guider_config.json",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "feature_extractor/preprocessor_config.json",
    ],
)
def test_a_model_that_lacks_a_part(missing: str, folders: dict[str, Path]) -> None:
    (folders["image"] / missing).unlink()
    with pytest.raises(InvalidInput, match=f"{missing.split('/')[0]}.* download") as caught:
        read_facts(folders["image"])
    assert "\n" not in str(caught.value)


def test_a_chat_template_among_the_settings(folders: dict[str, Path]) -> None:
    """As older versions of transformers write it."""
    template = folders["text"] / "tokenizer" / "chat_template.jinja"
    rewrite(folders["text"] / "tokenizer" / "tokenizer_config.json", "chat_template", template.read_text())
    template.unlink()
    read_facts(folders["text"])


def test_text_to_video_needs_no_image_encoder(folders: dict[str, Path]) -> None:
    assert not (folders["text"] / "image_encoder").exists() and not (folders["text"] / "feature_extractor").exists()
    read_facts(folders["text"])


def test_cut_weights_of_the_image_encoder(folders: dict[str, Path]) -> None:
    weights = folders["image"] / "image_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InvalidInput, match=r"image_encoder.* cut short"):
        read_facts(folders["image"])
