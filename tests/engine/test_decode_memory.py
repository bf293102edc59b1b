"""What decoding holds, by the formula of engine/cost/memory.py, and what it holds at published sizes without data."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15, AutoencoderKLWan

from engine.components.hunyuan_autoencoder import HunyuanAutoencoder
from engine.components.wan import autoencoder as wan
from engine.components.wan.autoencoder import WanAutoencoder, _Decoder, _Encoder
from engine.cost import tile_memory
from engine.cost.memory import estimate
from engine.models.catalog import CATALOG, PublishedModel
from parallel import tiles
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.live_tensors import LiveTensors, fake_tensors
from tests.support.published_components import COMPONENTS
from tests.support.slow import all_slow_but

BY_NAME = {model.name: model for model in CATALOG}


@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "Wan 2.2 TI2V 5B"])
def test_decoding_strips(name: str) -> None:
    """From the third latent frame on nothing new is remembered."""
    model = BY_NAME[name]
    channels, _, height, width = model.facts.latents_shape(*model.video)
    with fake_tensors(torch.float32):
        vae = AutoencoderKLWan(**COMPONENTS[name]["vae"][1]).eval().requires_grad_(False)
        decoder = _Decoder(vae)
        with LiveTensors(vae) as live:
            for _ in decoder(torch.empty(1, channels, 3, height, width)):
                pass
    pixels = model.video[1] * model.video[2]
    assert model.decode_bytes_per_pixel * 0.99 < live.peak / pixels <= model.decode_bytes_per_pixel


def test_encoding_images_takes_less_than_decoding() -> None:
    model = BY_NAME["Wan 2.1 I2V 14B 720P"]
    _, height, width = model.video
    with fake_tensors(torch.float32):
        vae = AutoencoderKLWan().eval().requires_grad_(False)
        encoder = _Encoder(vae)
        with LiveTensors(vae) as live:
            encoder(iter([torch.empty(1, 3, frames, height, width) for frames in (1, 4, 4)]))
    assert live.peak < model.decode_bytes_per_pixel * height * width


def test_decoding_a_tile() -> None:
    model = BY_NAME["HunyuanVideo"]
    with fake_tensors(torch.float32):
        vae = AutoencoderKLHunyuanVideo().eval().requires_grad_(False)
        vae.enable_tiling()
        with LiveTensors(vae) as live:
            vae.decode(torch.empty(1, 16, 5, 32, 32))
    assert model.decode_bytes_per_tile * 0.99 < live.peak <= model.decode_bytes_per_tile


def test_decoding_a_tile_of_all_frames() -> None:
    """HunyuanVideo 1.5 does not cut time, so that a frame costs the same however many there are."""
    model = BY_NAME["HunyuanVideo 1.5 T2V 720p"]
    with fake_tensors(torch.float32):
        vae = AutoencoderKLHunyuanVideo15().eval().requires_grad_(False)
        vae.enable_tiling()
        with LiveTensors(vae) as live:
            vae.decode(torch.empty(1, 32, 2, 16, 16))
    peak = live.peak / 5 * model.video[0]
    assert model.decode_bytes_per_tile * 0.99 < peak <= model.decode_bytes_per_tile


@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "Wan 2.2 TI2V 5B"])
def test_decoding_a_tile_of_wan(name: str) -> None:
    """Its activations are those of a strip of that size."""
    model = BY_NAME[name]
    side = tile_memory.TILE // model.facts.vae_scale_spatial
    with fake_tensors(torch.float32):
        vae = AutoencoderKLWan(**COMPONENTS[name]["vae"][1]).eval().requires_grad_(False)
        decoder = _Decoder(vae)
        with LiveTensors(vae) as live:
            for _ in decoder(torch.empty(1, model.facts.latent_channels, 3, side, side), packed=True):
                pass
    assert live.peak == pytest.approx(model.decode_bytes_per_pixel * tile_memory.TILE**2, rel=0.05)


class _Unknown:
    """Whether fake tensors are finite cannot be known."""

    def __init__(self, *args: Any) -> None:
        pass

    def wait(self) -> None:
        pass

    def require_finite(self, *args: Any) -> None:
        pass


class _Layers(torch.nn.Module):
    """In place of a decoder: holds what its layers hold, as the tests above find it, and gives tiles of their sizes."""

    def __init__(self, vae: Any, per_pixel: float, dtype: torch.dtype) -> None:
        super().__init__()
        self._vae, self._per_pixel, self._dtype = vae, per_pixel, dtype

    def _hold(self, pixels: int) -> None:
        torch.empty(int(self._per_pixel * pixels / self._dtype.itemsize), dtype=self._dtype)

    def forward(self, latents: torch.Tensor, packed: bool = False) -> Any:
        frames, height, width = latents.shape[2:]
        config = self._vae.config
        if not packed:
            temporal, scale = self._vae.temporal_compression_ratio, self._vae.spatial_compression_ratio
            self._hold(height * scale * width * scale)
            return torch.empty(1, 3, (frames - 1) * temporal + 1, height * scale, width * scale)
        return self._frames(frames, height, width, config.scale_factor_spatial, config.patch_size or 1)

    def _frames(self, frames: int, height: int, width: int, scale: int, patch: int) -> Iterator[torch.Tensor]:
        for number in range(frames):
            self._hold(height * scale * width * scale)
            yield torch.empty(
                1, 3 * patch**2, 4 if number else 1, height * scale // patch, width * scale // patch, dtype=self._dtype
            )


TILED = [
    ("Wan 2.1 T2V 14B", (81, 720, 1280)),
    ("Wan 2.1 T2V 14B", (321, 480, 832)),
    ("Wan 2.2 TI2V 5B", (121, 704, 1280)),
    ("HunyuanVideo", (41, 720, 1280)),
    ("HunyuanVideo", (13, 544, 960)),
    ("HunyuanVideo 1.5 T2V 720p", (121, 720, 1280)),
]
CASES = [
    (*case, num_ranks, dtype) for case in TILED for num_ranks in (1, 2, 8) for dtype in (torch.float32, torch.float16)
]
QUICK = [
    (*TILED[0], 1, torch.float32),
    (*TILED[2], 8, torch.float32),
    (*TILED[4], 2, torch.float16),
    (*TILED[5], 8, torch.float16),
]


@pytest.mark.parametrize(("name", "video", "num_ranks", "dtype"), all_slow_but(QUICK, CASES), ids=str)
def test_decoding_in_tiles(
    name: str, video: tuple[int, int, int], num_ranks: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the first rank, within 5%: the activations of a tile, and the tiles that wait there to be joined."""
    model, ranks = BY_NAME[name], Ranks(Degrees(ulysses=num_ranks))
    monkeypatch.setattr(tiles, "Verdict", _Unknown)
    monkeypatch.setattr("torch.distributed.P2POp", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.distributed.batch_isend_irecv", lambda operations: [])
    kind, settings = COMPONENTS[name]["vae"]
    with fake_tensors(dtype):
        vae = kind(**settings).eval().requires_grad_(False)
        latents = torch.empty(model.facts.latents_shape(*video))
        autoencoder = _autoencoder(model, vae, ranks, video, dtype, monkeypatch)
        with LiveTensors(vae, without=torch.uint8) as live:  # finished frames are in the host's memory
            for _ in autoencoder.decode(latents, CollectiveMeter()):
                pass
    size = dtype.itemsize
    memory = estimate(model, Degrees(ulysses=num_ranks), video=video, vae_bytes=size, tiled=True)
    assert memory.decode - memory.vae == pytest.approx(live.peak, rel=0.05)


WHOLE = [
    ("HunyuanVideo", (29, 544, 960)),
    ("HunyuanVideo", (17, 1536, 2048)),  # the mask is more than what the layers hold
    ("HunyuanVideo 1.5 T2V 720p", (5, 384, 640)),
]


@pytest.mark.parametrize(("name", "video"), all_slow_but(WHOLE[:1], WHOLE), ids=str)
def test_decoding_whole_frames(name: str, video: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of HunyuanVideo with ``model.vae_tiling: false``, by its own layers: within 5%."""
    model = BY_NAME[name]
    monkeypatch.setattr(tiles, "Verdict", _Unknown)
    kind, settings = COMPONENTS[name]["vae"]
    with fake_tensors(torch.float32):
        vae = kind(**settings).eval().requires_grad_(False)
        autoencoder = HunyuanAutoencoder(vae, Ranks(), tiled=False)
        latents = torch.empty(model.facts.latents_shape(*video))
        with LiveTensors(vae, without=torch.uint8) as live:
            for _ in autoencoder.decode(latents, CollectiveMeter()):
                pass
    memory = estimate(model, Degrees(), video=video, vae_bytes=4, tiled=False)
    assert memory.decode - memory.vae == pytest.approx(live.peak, rel=0.05)
    assert estimate(model, Degrees(), video=video, vae_bytes=4).decode < 0.8 * memory.decode, "else in tiles"


def _autoencoder(
    model: PublishedModel,
    vae: Any,
    ranks: Ranks,
    video: tuple[int, int, int],
    dtype: torch.dtype,
    patch: pytest.MonkeyPatch,
) -> Any:
    share = dtype.itemsize / 4
    if isinstance(vae, AutoencoderKLWan):
        layers = _Layers(vae, share * model.decode_bytes_per_pixel, dtype)
        patch.setattr(wan, "_Decoder", lambda vae: layers)
        return WanAutoencoder(vae, ranks, True)
    if isinstance(vae, AutoencoderKLHunyuanVideo15):
        share *= video[0] / model.video[0]
    autoencoder = HunyuanAutoencoder(vae, ranks)
    autoencoder._decoder = _Layers(vae, share * model.decode_bytes_per_tile / tile_memory.TILE**2, dtype)
    return autoencoder
