"""The VAE in its dtypes: errors and milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch.check.finding import Finding, judged
from launch.check.limits import DECODE_BFLOAT16_ERROR, DECODE_FLOAT32_ERROR
from launch.check.site import Site
from launch.check.video import relative_error

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Decoded:
    """One way to decode: its seconds, and its relative distance from the most exact way."""

    way: str
    seconds: float
    error: float


def decode(site: Site) -> Finding:
    """Three latent frames of Wan's VAE, and one tile of HunyuanVideo's, with random weights."""
    found = [each for vae, latents in _autoencoders(site.device) for each in measure(vae, latents, site.device)]
    limits = {"bfloat16": DECODE_BFLOAT16_ERROR.on(site.kind), "float32": DECODE_FLOAT32_ERROR.on(site.kind)}
    short = [
        f"{each.way} is off by {each.error:.1e}, above {limit:g}"
        for each in found
        for dtype, limit in limits.items()
        if each.way.endswith(dtype) and not each.error <= limit
    ]
    figure = "; ".join(f"{each.way} {1000 * each.seconds:.0f} ms, error {each.error:.0e}" for each in found)
    return judged(short, figure, f"float32 within {limits['float32']:g}, bfloat16 within {limits['bfloat16']:g}")


def _autoencoders(device: torch.device) -> Iterator[tuple[Any, Tensor]]:
    """Each VAE with latents: as published on a GPU, narrow and for small frames on the CPU."""
    import torch
    from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan

    torch.manual_seed(0)
    large = device.type == "cuda"
    with torch.device(device):
        yield (
            AutoencoderKLWan(**({} if large else {"base_dim": 16, "num_res_blocks": 1})),
            torch.randn(1, 16, 3, *((90, 160) if large else (2, 4))),
        )
        narrow = {"block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8}
        yield (
            AutoencoderKLHunyuanVideo(**({} if large else narrow)),
            torch.randn(1, 16, 5, 32, 32) if large else torch.randn(1, 16, 3, 2, 4),
        )


def measure(vae: Any, latents: Tensor, device: torch.device) -> list[Decoded]:
    """Decode in float32, bfloat16 and float32 with channels last, and on a GPU with TF32. They are compared with
    float64 on the CPU, and with float32 without TF32 on a GPU, where float64 would take minutes."""
    import torch

    name = type(vae).__name__.removeprefix("AutoencoderKL")
    cuda = device.type == "cuda"
    vae = vae.eval()
    with torch.inference_mode(), _tf32(False):
        exact = _decoded(vae.double(), latents.double()) if not cuda else _decoded(vae, latents)
        found = [_timed(f"{name} float32", vae.float(), latents, exact, device)]
        if cuda:
            with _tf32(True):
                found.append(_timed(f"{name} TF32", vae, latents, exact, device))
        for module in vae.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        found.append(_timed(f"{name} channels last, float32", vae, latents, exact, device))
        # last, since it rounds the weights
        found.append(_timed(f"{name} channels last, bfloat16", vae.bfloat16(), latents.bfloat16(), exact, device))
    return found


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    video: Tensor = vae.decode(latents, return_dict=False)[0]
    return video


def _timed(way: str, vae: Any, latents: Tensor, exact: Tensor, device: torch.device) -> Decoded:
    import torch

    if device.type == "cuda":
        _decoded(vae, latents)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    video = _decoded(vae, latents)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Decoded(way, time.perf_counter() - started, relative_error(video, exact))


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Convolutions of float32 may use TF32 inside, or may not."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
