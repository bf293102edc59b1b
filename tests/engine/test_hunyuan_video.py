"""HunyuanVideo in the whole engine: what the diffusers pipeline gives, from files, on one rank and on several."""

import json
import shutil
from pathlib import Path

import av
import pytest
import torch

from engine.checks.preflight import preflight
from engine.components.hunyuan_autoencoder import load_hunyuan_autoencoder
from engine.config import Config
from engine.engine import Engine, Result
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import GenerationRequest, Outputs, make_request, make_tasks
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.parity import difference, pipeline_video
from tests.support.small_model import tiny_config

SHORT = "a red circle"
LONG = "a blue square moving slowly left on the navy background"  # of another length: more tokens, less padding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hunyuan_checkpoint(tmp_path_factory.mktemp("models") / "HunyuanVideo")


def configured(model: Path, *overrides: str) -> Config:
    """3 x 3 x 5 = 45 tokens."""
    small = ["height=48", "width=80", "frames=9", "steps=4", "guidance=6", "shift=7", "scheduler=euler"]
    sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=256")]
    return tiny_config(f"model.path={model}", "cache.method=none", *sampling, *overrides)


def asked(config: Config, prompts: list[str]) -> GenerationRequest:
    return make_request(prompts, "", 11, config.sampling)


def generate(ranks: Ranks, config: Config, prompts: list[str], output: Path | None = None) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(asked(config, prompts), output=output)


@pytest.mark.parametrize(
    ("prompts", "overrides"),
    [
        ([LONG], ()),
        ([SHORT, LONG], ()),
        ([SHORT], ("sampling.guidance=1", "sampling.shift=3")),
        ([LONG], ("sampling.frames=1",)),
        ([LONG], ("sampling.max_sequence_length=12",)),
    ],
    ids=["published", "two prompts", "another guidance and shift", "one frame", "cut text"],
)
def test_one_rank_gives_the_pipelines_latents(prompts: list[str], overrides: tuple[str, ...], model: Path) -> None:
    config = configured(model, *overrides)
    expected = pipeline_video(config, asked(config, prompts))
    assert difference(generate(Ranks(), config, prompts).latents, expected) <= 1e-5


def test_what_is_asked_for_matters(model: Path) -> None:
    """Else parity could hold for a model that does not look."""
    latents = generate(Ranks(), configured(model), [LONG]).latents
    assert difference(generate(Ranks(), configured(model), [SHORT]).latents, latents) > 1e-3
    for override in ("sampling.guidance=1", "sampling.shift=3", "sampling.max_sequence_length=5"):
        assert difference(generate(Ranks(), configured(model, override), [LONG]).latents, latents) > 1e-3, override


def test_decoding_gives_the_pipelines_frames(model: Path) -> None:
    config = configured(model, "sampling.frames=25")  # 7 latent frames: more than one of diffusers' pieces of time
    expected = pipeline_video(config, asked(config, [LONG]), "np")[0]
    latents = generate(Ranks(), config, [LONG]).latents
    chunks = list(load_hunyuan_autoencoder(config, Ranks()).decode(latents[0], CollectiveMeter()))
    assert len(chunks) > 1, "the file is written as the frames come"
    frames = torch.cat(chunks)
    assert frames.shape == expected.shape and frames.dtype == torch.uint8
    assert expected.std() > 0.01, "a flat picture would hide mistakes"
    assert (frames - 255.0 * expected).abs().max() <= 0.51, "rounding to 8 bits is all that may differ"


def test_every_rank_gets_through_decoding(gang: Gang, model: Path, tmp_path: Path) -> None:
    config = configured(model)
    first, *others = gang.run(generate, Degrees(ring=3), config, [LONG], tmp_path / "video.mp4")
    assert first.report and not any(other.report for other in others)
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert len(list(container.decode(video=0))) == config.sampling.frames


def test_the_facts(model: Path) -> None:
    facts = read_facts(model)
    assert (facts.pipeline, facts.num_heads, facts.num_layers) == ("HunyuanVideoPipeline", 4, 4)
    assert (facts.patch_size, facts.vae_scale_spatial, facts.vae_scale_temporal) == ((1, 2, 2), 8, 4)
    assert facts.num_branches(6.0) == 1
    assert facts.latents_shape(129, 720, 1280) == (4, 33, 90, 160)


def refusal(config: Config, negative_prompt: str = "", ranks: int = 1) -> str:
    tasks = make_tasks(["x"], negative_prompt, [0], config.sampling, Outputs())
    with pytest.raises(InvalidInput) as caught:
        preflight(config, tasks, Place(ranks))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("overrides", "ranks", "words"),
    [
        (["parallel.cfg=2"], 2, ["parallel.cfg is 2", "HunyuanVideoPipeline", "1 branch a step, not 2", "cfg=1"]),
        (["sampling.scheduler=unipc"], 1, ["sampling.scheduler is unipc", "HunyuanVideo", "use euler"]),
        (["sampling.max_sequence_length=512"], 1, ["max_sequence_length is 512", "at most 256", "use 256"]),
        (["sampling.frames=16"], 1, ["sampling.frames is 16", "4n+1", "13 or 17"]),
        (["sampling.height=72"], 1, ["sampling.height is 72", "multiple of 16", "64 or 80"]),
        (["parallel.ulysses=3"], 3, ["ulysses", "3", "4"]),
        (["cache.method=dicache", "cache.probe_depth=4"], 1, ["probe_depth", "4 blocks", "at most 3"]),
        (
            ["cache.method=dbcache", "cache.last_blocks=1"],
            1,
            ["last_blocks is 1", "text along with the video", "leave"],
        ),
    ],
)
def test_what_does_not_fit(overrides: list[str], ranks: int, words: list[str], model: Path) -> None:
    sentence = refusal(configured(model, *overrides), ranks=ranks)
    for word in words:
        assert word in sentence, sentence


def test_a_negative_prompt_is_refused(model: Path) -> None:
    sentence = refusal(configured(model), negative_prompt="blurry")
    assert "--negative-prompt is 'blurry'" in sentence and "distilled" in sentence and "leave it out" in sentence


def test_what_fits_passes(model: Path) -> None:
    tasks = make_tasks(["x"], "", [0], configured(model).sampling, Outputs())
    assert preflight(configured(model, "parallel=auto"), tasks, Place(4)).degrees == Degrees(ulysses=4)
    long = configured(model, "sampling.frames=8001")  # no table of positions ends
    preflight(long, make_tasks(["x"], "", [0], long.sampling, Outputs()), Place(1))


@pytest.mark.parametrize(
    "missing",
    [
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer_2",
    ],
)
def test_a_model_that_lacks_a_part(missing: str, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    lost = folder / missing
    if lost.is_dir():
        shutil.rmtree(lost)
    else:
        lost.unlink()
    sentence = refusal(configured(folder))
    assert missing.split("/")[0] in sentence and "download" in sentence


def test_cut_weights_of_the_second_encoder(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    weights = folder / "text_encoder_2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "cut short" in refusal(configured(folder))


@pytest.mark.parametrize(
    ("key", "value"), [("guidance_embeds", False), ("image_condition_type", "token_replace"), ("in_channels", 9)]
)
def test_another_kind_of_transformer(key: str, value: object, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    sentence = refusal(configured(folder))
    assert str(value) in sentence and "does not run" in sentence
