"""Each component computes in the dtype that the configuration gives it."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline, WanPipeline
from torch import Tensor

from engine.components.dtypes import resolved_dtypes
from engine.components.hunyuan_autoencoder import load_hunyuan_autoencoder
from engine.components.hunyuan_video.prompt_encoder import HunyuanVideoPromptEncoder
from engine.components.wan.autoencoder import WanAutoencoder, load_wan_autoencoder
from engine.components.wan.prompt_encoder import WanPromptEncoder
from engine.config import Config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.models.families import FAMILIES, WAN, Family
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.gang import Gang
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.frames=5", "sampling.height=32", "sampling.width=48", "sampling.steps=2")


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "wan")


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hunyuan_checkpoint(tmp_path_factory.mktemp("models") / "hunyuan")


@pytest.mark.parametrize(
    ("overrides", "device", "expected"),
    [
        ([], "cpu", ["float32", "float32", "float32"]),
        ([], "cuda", ["bfloat16", "bfloat16", "float32"]),
        (["dtype=float32"], "cuda", ["float32", "float32", "float32"]),
        (["dtype=float32", "text_encoder_dtype=bfloat16"], "cpu", ["float32", "bfloat16", "float32"]),
        (["text_encoder_dtype=float32", "vae_dtype=bfloat16"], "cuda", ["bfloat16", "float32", "bfloat16"]),
        (["vae_dtype=float16"], "cpu", ["float32", "float32", "float16"]),
    ],
)
def test_what_is_left_open(overrides: list[str], device: str, expected: list[str]) -> None:
    config = tiny_config("model.dtype=auto", *(f"model.{override}" for override in overrides))
    keys = ("dtype", "text_encoder_dtype", "vae_dtype")
    assert resolved_dtypes(config, torch.device(device), WAN) == dict(zip(keys, expected, strict=True))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_vae_has_the_dtype_of_diffusers_examples(family: Family) -> None:
    """HunyuanVideo's pipelines are loaded in float16 there, all but the transformer; Wan's VAE in float32."""
    (pipeline,) = [name for name, of_name in FAMILIES.items() if of_name is family][:1]
    module = inspect.getmodule(getattr(diffusers, pipeline))
    example = module.EXAMPLE_DOC_STRING
    published = "float32" if "AutoencoderKLWan.from_pretrained" in example else "float16"
    assert f"torch_dtype=torch.{published}" in example
    for device, expected in (("cuda", published), ("cpu", "float32")):
        assert resolved_dtypes(tiny_config(), torch.device(device), family)["vae_dtype"] == expected


def test_a_run_with_three_dtypes(wan: Path) -> None:
    config = tiny_config(
        *(f"model.path={wan}", "model.text_encoder_dtype=bfloat16", "model.vae_dtype=bfloat16"), *SMALL
    )
    engine = Engine(load_model(config, Ranks()), Progress())
    report = engine.generate(make_request([PROMPT], "", 1, config.sampling)).report
    assert report
    wanted = {"path": str(wan), "dtype": "float32", "text_encoder_dtype": "bfloat16", "vae_dtype": "bfloat16"}
    assert report["request"]["model"].items() >= wanted.items()
    assert report["model"]["dtype"] == "float32"


def test_the_text_encoder_gives_what_the_pipelines_gives_in_that_dtype(wan: Path, hunyuan: Path) -> None:
    def embeds(config: Config, kind: Any) -> Tensor:
        request = make_request([PROMPT], "", 1, config.sampling)
        with torch.inference_mode():
            return kind(config, Ranks()).encode(request, 1, CollectiveMeter())[0]["prompt_embeds"]

    for folder, kind, pipeline_kind in (
        (wan, WanPromptEncoder, WanPipeline),
        (hunyuan, HunyuanVideoPromptEncoder, HunyuanVideoPipeline),
    ):
        config = tiny_config(f"model.path={folder}", "sampling.max_sequence_length=64")
        pipeline = pipeline_kind.from_pretrained(folder, dtype=torch.bfloat16)
        with torch.inference_mode():
            expected = pipeline.encode_prompt(PROMPT, max_sequence_length=64, device="cpu")[0]
        whole = embeds(config, kind)
        model = config.model.model_copy(update={"text_encoder_dtype": "bfloat16"})
        half = embeds(config.model_copy(update={"model": model}), kind)
        assert whole.dtype == torch.float32 and half.dtype == torch.bfloat16
        assert torch.equal(half, expected)
        assert not torch.equal(half.float(), whole)


def test_guidance_is_rounded_to_the_transformers_dtype_whatever_the_encoders(hunyuan: Path) -> None:
    config = tiny_config(
        *(f"model.path={hunyuan}", "model.text_encoder_dtype=bfloat16", "sampling.max_sequence_length=64"),
        "sampling.guidance=6.7",
    )
    request = make_request([PROMPT], "", 1, config.sampling)
    with torch.inference_mode():
        lane = HunyuanVideoPromptEncoder(config, Ranks()).encode(request, 1, CollectiveMeter())[0]
    assert lane["guidance"].dtype == torch.float32 and lane["guidance"].item() == pytest.approx(6700.0)


def decode_and_encode(ranks: Ranks, config: Config, latents: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """The decoded strip and the encoded video."""
    vae: WanAutoencoder = load_wan_autoencoder(config, ranks)
    strips = [piece.float() for piece in vae.decode_strip(latents, CollectiveMeter())]
    return torch.cat(strips, dim=1), vae.encode(video, CollectiveMeter())


def test_the_vae_of_wan_in_bfloat16(gang: Gang, wan: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(16, 2, 4, 6, generator=generator)
    video = torch.rand(3, 5, 32, 48, generator=generator) * 2 - 1
    configs = [tiny_config(f"model.path={wan}", f"model.vae_dtype={dtype}") for dtype in ("float32", "bfloat16")]
    (exact, seen), (decoded, encoded) = (decode_and_encode(Ranks(), config, latents, video) for config in configs)

    vae = WanPipeline.from_pretrained(wan, text_encoder=None, transformer=None, dtype=torch.bfloat16).vae
    statistics = (vae.config.latents_mean, vae.config.latents_std)
    mean, std = (torch.tensor(values, dtype=torch.bfloat16).view(1, -1, 1, 1, 1) for values in statistics)
    with torch.inference_mode():
        expected = vae.decode(latents[None].bfloat16() / (1.0 / std) + mean).sample[0].float()
    assert torch.equal(decoded, expected), "as diffusers' pipeline decodes with a VAE in bfloat16"
    assert encoded.dtype == torch.float32, "the sampler takes it from here"
    for rounded, value in ((decoded, exact), (encoded, seen)):
        assert 1e-4 < (rounded - value).abs().max() / value.abs().max() < 0.05

    both = gang.run(decode_and_encode, Degrees(ulysses=2), configs[1], latents, video)
    strips = torch.cat([strip for strip, _ in both], dim=2)
    for value, several in ((decoded, strips), *((encoded, whole) for _, whole in both)):
        assert (several - value).abs().max() <= 0.02 * value.abs().max()


def test_the_vae_of_hunyuan_in_bfloat16(hunyuan: Path) -> None:
    latents = torch.randn(4, 2, 4, 6, generator=torch.Generator().manual_seed(3))
    config = tiny_config(f"model.path={hunyuan}", "model.vae_dtype=bfloat16")
    frames = torch.cat(list(load_hunyuan_autoencoder(config, Ranks()).decode(latents, CollectiveMeter())))
    vae = AutoencoderKLHunyuanVideo.from_pretrained(hunyuan / "vae", dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = vae.decode(latents[None].bfloat16() / vae.config.scaling_factor).sample[0]
    pixels = (expected.float() / 2 + 0.5).clamp(0, 1).mul(255).permute(1, 2, 3, 0)
    assert (frames - pixels).abs().max() <= 0.51
