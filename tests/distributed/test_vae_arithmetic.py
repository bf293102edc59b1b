"""What TF32, half precision and another memory format change in decoded frames, on the small model's trained VAE."""

import math

import pytest
import torch
from torch import Tensor, nn

from engine.components.memory_format import to_channels_last
from engine.components.wan.autoencoder import WanAutoencoder
from engine.config import RuntimeConfig
from engine.execution.convolutions import set_convolutions
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.distributed.test_autoencoder import make_vae
from tests.support.gang import Gang
from tests.support.tf32 import Tf32Convolutions, to_tf32


def latents() -> Tensor:
    return torch.randn(16, 2, 4, 5, generator=torch.Generator().manual_seed(0))


def decode(ranks: Ranks, tf32: bool = False, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    """This rank's rows, float32 [3, frames, rows, width] in [-1, 1]."""
    vae = make_vae("small")
    nn.Module.to(vae, dtype)
    if channels_last:
        to_channels_last(vae)
        assert any(p.is_contiguous(memory_format=torch.channels_last_3d) for p in vae.parameters() if p.ndim == 5)
    autoencoder = WanAutoencoder(vae, ranks)
    if tf32:
        with Tf32Convolutions() as mode:
            strips = list(autoencoder.decode_strip(latents(), CollectiveMeter()))
        assert mode.count > 10
    else:
        strips = list(autoencoder.decode_strip(latents(), CollectiveMeter()))
    return torch.cat(strips, dim=1).float()


def error(value: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def exact() -> Tensor:
    """As float64 has it."""
    return decode(Ranks(), dtype=torch.float64)


def test_tf32_rounds_to_ten_bits() -> None:
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -(1 + 2**-11), 3.0e38])
    assert to_tf32(x).tolist()[:5] == [1.0, 1 + 2**-10, 1 + 2**-10, 1.0, -(1 + 2**-10)]
    assert math.isfinite(to_tf32(x)[5])


@pytest.mark.parametrize(
    ("dtype", "tf32", "least", "most"),
    [
        (torch.float32, False, 0, 1e-5),
        (torch.float32, True, 1e-4, 1e-2),
        (torch.float16, False, 1e-4, 2e-2),
        (torch.bfloat16, False, 1e-3, 1e-1),
    ],
    ids=["float32", "TF32", "float16", "bfloat16"],
)
def test_errors_against_float64(exact: Tensor, dtype: torch.dtype, tf32: bool, least: float, most: float) -> None:
    assert least <= error(decode(Ranks(), tf32, dtype), exact) < most


def test_channels_last_is_as_exact(exact: Tensor) -> None:
    assert error(decode(Ranks(), channels_last=True), exact) < 1e-5


@pytest.mark.parametrize(("tf32", "channels_last", "most"), [(False, True, 1e-5), (True, False, 1e-2)])
def test_strips_of_two_ranks(gang: Gang, tf32: bool, channels_last: bool, most: float) -> None:
    """With TF32 a difference of the last bit can move an input to the next number of ten bits."""
    alone = decode(Ranks(), tf32, channels_last=channels_last)
    strips = gang.run(decode, Degrees(ulysses=2), tf32, torch.float32, channels_last)
    assert error(torch.cat(strips, dim=2), alone) < most


def test_the_configuration_decides_on_tf32_and_benchmarking() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        for tf32, benchmark in ((False, True), (True, False)):
            set_convolutions(RuntimeConfig(tf32=tf32, cudnn_benchmark=benchmark))
            assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == (tf32, benchmark)
            assert not torch.backends.cuda.matmul.allow_tf32
        assert RuntimeConfig().tf32 and not RuntimeConfig().cudnn_benchmark, "as torch has it"
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
