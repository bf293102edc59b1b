"""Frames go from the decoder into the file as they come; nobody collects them."""

import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from engine.components.wan.autoencoder import WanAutoencoder, load_wan_autoencoder
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.media.video import to_uint8, write_video
from engine.progress import Progress
from engine.request import make_request
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, tiny_config


class Counting:
    """An autoencoder that counts how many of its chunks are still held by somebody when it makes the next."""

    def __init__(self, autoencoder: WanAutoencoder) -> None:
        self._autoencoder = autoencoder
        self._chunks: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        for frames in self._autoencoder.decode(latents, meter):
            self._chunks.append(weakref.ref(frames))
            self.alive.append(sum(chunk() is not None for chunk in self._chunks))
            yield frames

    def shares(self, latents: Tensor) -> dict[str, Any]:
        return self._autoencoder.shares(latents)


def test_a_request_holds_two_chunks_at_most(tmp_path: Path) -> None:
    config = tiny_config("sampling.steps=2", "cache.method=none", "sampling.frames=33")
    model = load_model(config, Ranks())
    counting = Counting(model.autoencoder)
    engine = Engine(replace(model, autoencoder=counting), Progress())  # type: ignore[arg-type]
    engine.generate(make_request([PROMPT, PROMPT], "", 7, config.sampling), output=tmp_path / "video.mp4")
    assert len(counting.alive) == 2 * 9, "one chunk for each latent frame"
    assert max(counting.alive) <= 2, counting.alive


def test_decoding_and_encoding_on_one_rank_are_those_of_diffusers_bit_for_bit() -> None:
    config = tiny_config()
    autoencoder = load_wan_autoencoder(config, Ranks())
    vae = AutoencoderKLWan.from_pretrained(config.model.path, subfolder="vae").eval()
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    latents = torch.randn(16, 4, 6, 14, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pixels = vae.decode((latents / (1.0 / std) + mean)[None]).sample[0]
        encoded = (vae.encode(pixels[None]).latent_dist.mode()[0] - mean) * (1.0 / std)
    assert torch.equal(torch.cat(list(autoencoder.decode_strip(latents, CollectiveMeter())), dim=1), pixels)
    frames = torch.cat(list(autoencoder.decode(latents, CollectiveMeter())))
    assert torch.equal(frames, to_uint8(pixels).permute(1, 2, 3, 0))
    assert torch.equal(autoencoder.encode(pixels, CollectiveMeter()), encoded)


def test_a_file_that_cannot_be_written_is_an_os_error_at_once(tmp_path: Path) -> None:
    """A full disk is noticed while frames come, not after hours of decoding."""
    full = tmp_path / "video.mp4"
    full.symlink_to("/dev/full")
    asked = []

    def noise() -> Iterator[Tensor]:
        for number in range(200):
            asked.append(number)
            yield torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)

    with pytest.raises(OSError, match="No space left on device"):
        write_video(noise(), full, 16, 64, 64)
    assert len(asked) < 100
