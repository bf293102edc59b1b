"""The Wan VAE in tiles: diffusers' tiles bit for bit on any number of ranks, in little memory, with faint seams; and
only where the card is too small for whole frames."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from engine.components.wan.autoencoder import WanAutoencoder
from engine.components.wan.tiles import needs_tiles
from engine.cost.autoencoders import wan_bytes_per_pixel
from engine.media.video import to_uint8
from engine.models.catalog import CATALOG
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.distributed.test_autoencoder import make_vae
from tests.support.gang import Gang
from tests.support.live_tensors import LiveTensors

KINDS = ["small", "wan 2.1"]


def make_tiled_vae(kind: str) -> AutoencoderKLWan:
    """With tiles of 64 pixels, which for the packed pixels of the small model's VAE are 64 packed ones."""
    vae = make_vae(kind)
    vae.enable_tiling(64, 64, 48, 48)
    vae.use_tiling = False
    return vae


def inputs(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Latents and a video of more tiles than one in each direction."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(vae.config.z_dim, 3, 11, 15, generator=generator)
    return latents, torch.rand(3, 5, 144, 176, generator=generator) * 2 - 1


def decode_and_encode(ranks: Ranks, kind: str) -> tuple[Tensor | None, Tensor, dict[str, Any], dict[str, int]]:
    vae = make_tiled_vae(kind)
    autoencoder = WanAutoencoder(vae, ranks, True)
    latents, video = inputs(vae)
    meter = CollectiveMeter()
    frames = list(autoencoder.decode(latents, meter))
    sent = dict(meter.sent_bytes)
    encoded = autoencoder.encode(video, CollectiveMeter())
    return torch.cat(frames) if frames else None, encoded, autoencoder.shares(latents), sent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_tiles_are_those_of_diffusers_on_any_number_of_ranks(gang: Gang, num_ranks: int, kind: str) -> None:
    vae = make_tiled_vae(kind)
    latents, video = inputs(vae)
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    vae.enable_tiling()
    with torch.inference_mode():
        pixels = vae.decode((latents / (1.0 / std) + mean)[None]).sample[0]
        expected = (vae.encode(video[None]).latent_dist.mode()[0] - mean) * (1.0 / std)
    if num_ranks == 1:
        results = [decode_and_encode(Ranks(), kind)]
    else:
        results = gang.run(decode_and_encode, Degrees(ulysses=num_ranks), kind)
    frames, _, shares, _ = results[0]
    assert frames is not None and torch.equal(frames, to_uint8(pixels).permute(1, 2, 3, 0))
    assert all(torch.equal(encoded, expected) for _, encoded, _, _ in results)
    assert all(frames is None for frames, *_ in results[1:])
    assert shares["cut"] == "tiles" and sum(shares["per_rank"]) == 2 * 3 and min(shares["per_rank"]) > 0
    for rank, (*_, sent) in enumerate(results):
        assert ("vae_tiles" in sent) == (rank > 0) and "vae_halo" not in sent and "vae_attention" not in sent


def decode_peak(tiled: bool, frames: int) -> int:
    vae = make_tiled_vae("wan 2.1")
    autoencoder = WanAutoencoder(vae, Ranks(), tiled)
    latents = torch.randn(vae.config.z_dim, frames, 22, 30, generator=torch.Generator().manual_seed(0))
    with LiveTensors() as live:
        for _ in autoencoder.decode(latents, CollectiveMeter()):
            pass
    return live.peak


def test_tiles_take_less_memory_than_whole_frames() -> None:
    whole, tiled = decode_peak(False, 3), decode_peak(True, 3)
    assert tiled < 0.5 * whole


def shapes_that_move(height: int, width: int) -> Tensor:
    """[3, 5, height, width] in [-1, 1]: what the small model was trained on, larger: plain shapes on a plain ground."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    video = torch.full((3, 5, height, width), -0.6)
    for t in range(5):
        for colour, (row, column, size) in enumerate([(90, 60, 50), (200, 150, 70), (250, 300, 60)]):
            inside = (rows - row).square() + (columns - column - 6 * t).square() < size**2
            video[:, t, inside] = -0.7
            video[colour, t, inside] = 0.8
    return video


@pytest.mark.slow
def test_seams_of_the_small_model() -> None:
    """Against whole frames; docs/benchmarks.md has the figures."""
    vae = make_vae("small")
    video = shapes_that_move(640, 768)
    whole, tiled = (WanAutoencoder(vae, Ranks(), tiling) for tiling in (False, True))
    latents = whole.encode(video, CollectiveMeter())
    assert psnr(tiled.encode(video, CollectiveMeter()), latents, float(latents.max() - latents.min())) > 60
    expected = torch.cat(list(whole.decode(latents, CollectiveMeter()))).float()
    frames = torch.cat(list(tiled.decode(latents, CollectiveMeter()))).float()
    assert not torch.equal(frames, expected), "or nothing was cut"
    assert psnr(frames, expected, 255.0) > 40


def psnr(value: Tensor, expected: Tensor, peak: float) -> float:
    return float(20 * torch.log10(peak / (value - expected).square().mean().sqrt()))


@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "Wan 2.2 TI2V 5B"])
def test_the_formula_is_that_of_the_catalog(name: str) -> None:
    (model,) = [row for row in CATALOG if row.name == name]
    assert wan_bytes_per_pixel(dict(model.vae)) == model.decode_bytes_per_pixel
    assert wan_bytes_per_pixel(dict(model.vae), 2) == model.decode_bytes_per_pixel // 2


@pytest.mark.parametrize(
    ("card_gb", "held_gb", "needed"), [(80, 28.6, False), (24, 0, False), (24, 2, True), (48, 28.6, True)]
)
def test_whole_frames_while_the_card_has_room(
    monkeypatch: pytest.MonkeyPatch, card_gb: float, held_gb: float, needed: bool
) -> None:
    """720p in float32 takes 18.1 GB beside the VAE's 0.5 GB; a tenth of the card and 2 GB are left free."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held_gb * 1e9)
    card = SimpleNamespace(total_memory=card_gb * 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    on_card = Ranks(device=torch.device("cuda", 0))
    assert needs_tiles(vae, (16, 21, 90, 160), on_card) is needed
    assert needs_tiles(vae, (16, 21, 90, 160), Ranks()) is False, "the CPU has room"
    assert needs_tiles(vae, (16, 21, 60, 104), on_card) is False, "nor does 480p need tiles"
