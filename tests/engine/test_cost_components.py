"""FLOPs of encoders and VAEs in engine/cost/ against torch's counter, at published sizes, without data."""

from typing import Any

import pytest
import torch

from engine.cost.autoencoders import autoencoder_flops
from engine.cost.encoders import encoder_flops, shape_of_encoder
from engine.cost.shape import Kind
from engine.cost.vae_traffic import decode_bytes
from engine.models.catalog import CATALOG
from parallel.degrees import Degrees
from tests.support.flop_counts import counter
from tests.support.published_components import (
    BYT5_SMALL,
    CLIP_H,
    CLIP_L,
    COMPONENTS,
    CONFIG_CLASSES,
    LLAMA,
    QWEN_25_VL_7B,
    SIGLIP_SO400M,
    UMT5_XXL,
)

TEXTS = {
    "umt5": ("Wan 2.1 T2V 14B", "text_encoder", UMT5_XXL),
    "llama": ("HunyuanVideo", "text_encoder", LLAMA),
    "clip": ("HunyuanVideo", "text_encoder_2", CLIP_L),
    "qwen": ("HunyuanVideo 1.5 T2V 480p", "text_encoder", QWEN_25_VL_7B),
    "byt5": ("HunyuanVideo 1.5 T2V 480p", "text_encoder_2", BYT5_SMALL),
}
IMAGES = {
    "clip": ("Wan 2.1 I2V 14B 720P", CLIP_H, 257, 256),
    "siglip": ("HunyuanVideo 1.5 I2V 480p", SIGLIP_SO400M, 729, 729),
}


def made(name: str, folder: str, layers: int = 2) -> tuple[Any, dict[str, Any]]:
    kind, config = COMPONENTS[name][folder]
    depth = "num_layers" if "num_layers" in config else "num_hidden_layers"
    config = config | {depth: layers}
    with torch.device("meta"):
        return kind(CONFIG_CLASSES[kind](**config)).eval(), config


@pytest.mark.parametrize("tokens", [77, 64])
@pytest.mark.parametrize("encoder", TEXTS)
def test_text_encoders(encoder: str, tokens: int) -> None:
    name, folder, published = TEXTS[encoder]
    module, config = made(name, folder)
    with torch.no_grad(), counter() as counted:
        module(torch.zeros(1, tokens, dtype=torch.long, device="meta"))
    assert encoder_flops(shape_of_encoder(config), tokens) == pytest.approx(counted.get_total_flops(), rel=0.01)
    assert shape_of_encoder(published).layers > 2


@pytest.mark.parametrize("encoder", IMAGES)
def test_image_encoders(encoder: str) -> None:
    """SigLIP's pooling, which HunyuanVideo does not use, is left out of the formula."""
    name, published, tokens, patches = IMAGES[encoder]
    module, config = made(name, "image_encoder", published["num_hidden_layers"])
    side = published["image_size"]
    with torch.no_grad(), counter() as counted:
        module(torch.zeros(1, 3, side, side, device="meta"))
    flops = encoder_flops(shape_of_encoder(config), tokens, patches)
    assert flops == pytest.approx(counted.get_total_flops(), rel=0.01)


SMALL_WAN = {"base_dim": 8, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True]}
SMALL_HUNYUAN = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}


def count_vae(kind: Any, config: Any, given: Any, way: str, tiled: bool = False) -> int:
    with torch.device("meta"):
        vae = kind(**config).eval()
    if tiled:
        vae.enable_tiling()
    with torch.no_grad(), counter() as counted:
        getattr(vae, way)(torch.empty(given, device="meta"))
    return counted.get_total_flops()


@pytest.mark.parametrize("way", ["decode", "encode"])
@pytest.mark.parametrize(
    ("name", "reduced"),
    [
        ("Wan 2.1 T2V 14B", SMALL_WAN | {"scale_factor_spatial": 4}),
        pytest.param("Wan 2.1 T2V 14B", {}, marks=pytest.mark.slow),
        pytest.param("Wan 2.2 TI2V 5B", {}, marks=pytest.mark.slow),
    ],
)
def test_long_wan_videos_are_counted_from_short_ones(name: str, reduced: dict[str, Any], way: Any) -> None:
    model = next(row for row in CATALOG if row.name == name)
    kind, published = COMPONENTS[name]["vae"]
    config, frames = published | reduced, 6
    latents = (model.facts.latent_channels, frames, 6, 10)
    scale, temporal = config.get("scale_factor_spatial", 8), config.get("scale_factor_temporal", 4)
    pixels = (1, 3, (frames - 1) * temporal + 1, 6 * scale, 10 * scale)
    counted = count_vae(kind, config, (1, *latents) if way == "decode" else pixels, way)
    assert autoencoder_flops("wan", dict(model.vae) | reduced, latents, way) == counted


@pytest.mark.parametrize("way", ["decode", "encode"])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "reduced", "latents"),
    [
        ("HunyuanVideo", "hunyuan_video", SMALL_HUNYUAN, (16, 3, 40, 34)),
        pytest.param("HunyuanVideo", "hunyuan_video", {}, (16, 6, 40, 34), marks=pytest.mark.slow),
        pytest.param("HunyuanVideo 1.5 T2V 480p", "hunyuan_video15", {}, (32, 3, 18, 17), marks=pytest.mark.slow),
    ],
)
def test_tiles_of_a_size_are_run_once(
    name: str, kind: Kind, reduced: dict[str, Any], latents: Any, way: Any, tiled: bool
) -> None:
    model_class, published = COMPONENTS[name]["vae"]
    _, frames, rows, columns = latents
    scale = 16 if kind == "hunyuan_video15" else 8
    pixels = (1, 3, (frames - 1) * 4 + 1, rows * scale, columns * scale)
    config = published | reduced
    counted = count_vae(model_class, config, (1, *latents) if way == "decode" else pixels, way, tiled)
    assert autoencoder_flops(kind, config, latents, way, tiled) == counted


def test_bytes_of_the_published_wan_vae() -> None:
    """At 1280 × 720 over 8 ranks in float32, as parallel/wan_autoencoder.py says: for each latent frame 65 MB with each
    neighbour, and 38 MB for one gather of keys and values; 1.4 MB of finished frames."""
    degrees, channels = Degrees(ulysses=8), 16
    few, one_more = (decode_bytes({}, (channels, frames, 90, 160), degrees, rank=2) for frames in (20, 21))
    of_frame = {kind: one_more[kind] - few[kind] for kind in few}
    assert of_frame["vae_halo"] == pytest.approx(2 * 65e6, rel=0.01)
    assert of_frame["vae_attention"] == pytest.approx(38e6, rel=0.05)
    assert of_frame["vae_gather"] == 4 * 11 * 8 * 1280 * 3
    assert of_frame["vae_agreement"] == 7 * 8
    ends = [decode_bytes({}, (channels, 20, 90, 160), degrees, rank) for rank in (0, 7)]
    assert {end["vae_halo"] * 2 for end in ends} == {few["vae_halo"]}, "the first and the last have one neighbour"
    assert "vae_gather" not in ends[0], "the first rank receives"
