"""The VAE over ranks gives what it gives on one: every strip, every size, decode and encode."""

import hashlib
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch import Tensor, nn

from engine.components.wan.autoencoder import WanAutoencoder
from engine.config import Config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.agreement import NotFiniteError
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.rows import plan_strips
from parallel.wan_autoencoder import spread_rows
from tests.support.gang import Gang
from tests.support.live_tensors import LiveTensors
from tests.support.slow import all_slow_but
from tests.support.small_model import PROMPT, ROOT, tiny_config

LAYOUTS = [Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2, ulysses=2)]
# rows, columns and frames of the latents: rows that no rank count divides, one row a rank, fewer rows than ranks
SIZES = [(7, 5, 2), (4, 3, 1), (3, 4, 2), (1, 6, 3)]
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}


def make_vae(kind: str, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """The small model's VAE, which is built like Wan 2.2's, or a random one built like Wan 2.1's."""
    if kind == "small":
        vae = AutoencoderKLWan.from_pretrained(ROOT / "configs" / "tiny_wan", subfolder="vae")
    else:
        torch.manual_seed(0)
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2, 4, 4],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.0, 2.0, 0.5, 1],
        )
        vae.decoder.conv_out.weight.data *= 0.1  # else most values are clamped, and clamped values cannot differ
    nn.Module.to(vae, dtype)  # diffusers' own warns of modules to be kept in float32, of which there are none
    return vae.eval()


@dataclass(frozen=True)
class Results:
    """What one rank has to show for one size; None where it holds no rows or receives no frames."""

    strip: Tensor | None
    frames: Tensor | None
    latents: Tensor


def run_autoencoder(ranks: Ranks, kind: str, dtype: torch.dtype, sizes: list[tuple[int, int, int]]) -> list[Results]:
    vae = make_vae(kind, dtype)
    autoencoder = WanAutoencoder(vae, ranks)
    meter = CollectiveMeter()
    results = []
    for rows, columns, num_frames in sizes:
        generator = torch.Generator().manual_seed(rows)
        latents = torch.randn(vae.config.z_dim, num_frames, rows, columns, generator=generator, dtype=dtype)
        video = torch.rand(3, 4 * num_frames - 3, 8 * rows, 8 * columns, generator=generator, dtype=dtype) * 2 - 1
        strip, frames = list(autoencoder.decode_strip(latents, meter)), list(autoencoder.decode(latents, meter))
        results.append(
            Results(
                torch.cat(strip, dim=1) if strip else None,
                torch.cat(frames) if frames else None,
                autoencoder.encode(video, meter),
            )
        )
    return results


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, torch.dtype], list[Results]]:
    """The one-rank results of each VAE and dtype, made once."""
    return {}


@pytest.mark.parametrize("kind", ["small", "wan 2.1"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_every_size_is_exact(
    gang: Gang, alone: dict[tuple[str, torch.dtype], list[Results]], degrees: Degrees, dtype: torch.dtype, kind: str
) -> None:
    if (kind, dtype) not in alone:
        alone[kind, dtype] = run_autoencoder(Ranks(), kind, dtype, SIZES)
    ranks = gang.run(run_autoencoder, degrees, kind, dtype, SIZES)

    for size, expected, *results in zip(SIZES, alone[kind, dtype], *ranks, strict=True):
        strips = [result.strip for result in results if result.strip is not None]
        assert len(strips) == min(degrees.world_size, size[0])
        assert expected.strip is not None and (expected.strip.abs() < 1).float().mean() > 0.5
        assert difference(torch.cat(strips, dim=-2), expected.strip) < BOUNDS[dtype], size

        assert [result.frames is None for result in results] == [rank > 0 for rank in range(degrees.world_size)]
        assert results[0].frames is not None and expected.frames is not None
        assert (results[0].frames.int() - expected.frames.int()).abs().max() <= 1, "rounding to 8 bits may fall apart"
        if dtype == torch.float64:
            assert torch.equal(results[0].frames, expected.frames)

        assert all(torch.equal(result.latents, results[0].latents) for result in results)
        assert difference(results[0].latents, expected.latents) < BOUNDS[dtype], size


def difference(tensor: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    assert tensor.shape == expected.shape
    return float((tensor - expected).abs().max() / expected.abs().max())


def send_known_bytes(ranks: Ranks) -> list[dict[str, int]]:
    """Bytes sent by a convolution with two cached frames, by a downsampling, by attention and by a gather."""
    vae = nn.ModuleList(
        [
            WanCausalConv3d(3, 5, 3, padding=1),
            nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, stride=2)),
            WanAttentionBlock(3),
        ]
    )
    exchange = spread_rows(vae, ranks)
    strips = plan_strips(7, ranks)
    video = strips.cut(torch.randn(2, 3, 4, 14, 6), scale=2)
    steps = [
        lambda: vae[0](video[:, :, 2:], video[:, :, :2]),
        lambda: vae[1](video[0].transpose(0, 1)),
        lambda: vae[2](video),
        lambda: exchange.gather_for_first("vae_gather", video.to(torch.uint8)),
    ]
    sent = []
    for step in steps:
        meter = CollectiveMeter()
        exchange.begin(strips, meter)
        step()
        sent.append(dict(meter.sent_bytes))
    return sent


def test_bytes_are_those_of_the_theory(gang: Gang) -> None:
    """14 rows, two for each row of the latents, over three ranks: 6, 4 and 4 rows."""
    row = 3 * 6  # channels and width
    neighbours, ranks_above, rows = [1, 2, 1], [0, 1, 1], [6, 4, 4]
    for rank, sent in enumerate(gang.run(send_known_bytes, Degrees(ring=3))):
        convolution = {"vae_halo": neighbours[rank] * 2 * (2 + 2) * row * 4}
        downsampling = {"vae_halo": ranks_above[rank] * 4 * row * 4} if rank else {}
        attention = {"vae_attention": 2 * 2 * 4 * rows[rank] * row * 4 * 2}
        gather = {"vae_gather": 2 * 4 * rows[rank] * row} if rank else {}
        assert sent == [convolution, downsampling, attention, gather]


def peak_bytes(ranks: Ranks, kind: str, lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """The most bytes held while decoding latents of each length, and those of encoding as many frames."""
    vae = make_vae(kind)
    autoencoder = WanAutoencoder(vae, ranks)
    peaks = []
    for num_frames in lengths:
        with LiveTensors() as decoding:
            for _ in autoencoder.decode(torch.randn(vae.config.z_dim, num_frames, 4, 4), CollectiveMeter()):
                pass
        video = torch.zeros(3, 4 * num_frames - 3, 32, 32)
        with LiveTensors() as encoding:
            autoencoder.encode(video, CollectiveMeter())
        peaks.append((decoding.peak, encoding.peak - video.nbytes))  # the caller's, whatever its length
    return peaks


@pytest.mark.parametrize("kind", all_slow_but(["small"], ["small", "wan 2.1"]))
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_memory_does_not_grow_with_length(gang: Gang, num_ranks: int, kind: str) -> None:
    short, long = lengths = (3, 13)
    latents_bytes = (long - short) * make_vae(kind).config.z_dim * 4 * 4 * 4
    frames_bytes = (long - short) * 4 * 3 * 32 * 32 * 4  # in float32, as the decoder makes them
    if num_ranks == 1:
        ranks = [peak_bytes(Ranks(), kind, lengths)]
    else:
        ranks = gang.run(peak_bytes, Degrees(ulysses=num_ranks), kind, lengths)
    for peaks in ranks:
        for shorter, longer in zip(*peaks, strict=True):
            assert shorter > frames_bytes / (long - short) / num_ranks, "or nothing was measured"
            # a few copies of the latents, no frames
            assert longer - shorter <= 8 * latents_bytes < frames_bytes / num_ranks / 2


class Watched:
    """An autoencoder that remembers the frames it decoded."""

    def __init__(self, autoencoder: WanAutoencoder) -> None:
        self._autoencoder = autoencoder
        self.frames: list[Tensor] = []
        self.calls = 0

    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        self.calls += 1
        for frames in self._autoencoder.decode(latents, meter):
            self.frames.append(frames)
            yield frames

    def shares(self, latents: Tensor) -> dict[str, Any]:
        return self._autoencoder.shares(latents)


def make_video(ranks: Ranks, config: Config, output: Path | None) -> tuple[Tensor | None, dict[str, Any] | None, int]:
    """Frames, report and how often something was decoded."""
    model = load_model(config, ranks)
    watched = Watched(model.autoencoder)
    engine = Engine(replace(model, autoencoder=watched), Progress())  # type: ignore[arg-type]
    request = make_request([PROMPT], "", 7, config.sampling)
    result = engine.generate(request, output=output)
    return torch.cat(watched.frames) if watched.frames else None, result.report, watched.calls


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(cfg=2, ring=2)], ids=str)
def test_a_run_on_several_ranks_shows_the_video_of_one(gang: Gang, degrees: Degrees, tmp_path: Path) -> None:
    config = tiny_config("sampling.height=48")  # 6 rows: two ranks have 2, two have 1
    expected, alone_report, _ = make_video(Ranks(), config, tmp_path / "one.mp4")
    (frames, report, _), *others = gang.run(make_video, degrees, config, tmp_path / "several.mp4")

    assert alone_report and report and expected is not None and frames is not None
    assert (frames.int() - expected.int()).abs().max() <= 1
    for shown, written in ((expected, alone_report), (frames, report)):
        assert written["output"]["frames_sha256"] == hashlib.sha256(shown.numpy().tobytes()).hexdigest()
    assert all(frames is None and report is None and calls == 1 for frames, report, calls in others)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "several.mp4"]
    kinds = report["totals"]["collective_bytes_by_kind"]
    rows_of_second_rank = {2: 3, 4: 2}[degrees.world_size]
    assert kinds["vae_gather"] == 17 * 3 * 64 * 8 * rows_of_second_rank, "uint8 frames, from the rank that sends most"
    assert kinds["vae_halo"] > 0 and kinds["vae_attention"] > 0
    assert not any(kind.startswith("vae") for kind in alone_report["totals"]["collective_bytes_by_kind"])
    assert report["totals"]["seconds"]["decode"] > 0 and report["totals"]["seconds"]["write"] > 0


def test_nothing_is_decoded_on_any_rank_if_no_video_is_asked_for(gang: Gang) -> None:
    results = gang.run(make_video, Degrees(ring=2), tiny_config("sampling.steps=2"), None)
    assert [calls for _, _, calls in results] == [0, 0]
    report = results[0][1]
    assert report["totals"]["seconds"]["decode"] == 0
    assert not any(kind.startswith("vae") for kind in report["totals"]["collective_bytes_by_kind"])
    assert report["output"]["videos"] == []


def test_a_module_that_may_look_beyond_its_rows_is_refused() -> None:
    vae = make_vae("wan 2.1")
    vae.decoder.norm_out = nn.GroupNorm(2, 8)
    with pytest.raises(ValueError, match="has a GroupNorm"):
        spread_rows(vae, Ranks(Degrees(ulysses=2)))


def test_a_size_that_is_not_whole_latents_is_refused() -> None:
    autoencoder = WanAutoencoder(make_vae("wan 2.1"), Ranks())
    for frames, height, width in ((4, 32, 32), (5, 36, 32), (5, 32, 36)):
        with pytest.raises(ValueError, match=f"{frames} frames and {width}×{height} pixels"):
            autoencoder.encode(torch.zeros(3, frames, height, width), CollectiveMeter())


def test_a_decode_that_was_left_half_way_leaves_nothing_behind() -> None:
    autoencoder = WanAutoencoder(make_vae("small"), Ranks())
    latents = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    fresh = torch.cat(list(autoencoder.decode(latents, CollectiveMeter())))
    left = autoencoder.decode(-latents, CollectiveMeter())
    next(left)
    left.close()
    assert torch.equal(torch.cat(list(autoencoder.decode(latents, CollectiveMeter()))), fresh)


def decode_what_is_not_finite(ranks: Ranks, value: float, spoilt_rank: int, rows: int) -> str:
    """The error of a rank, one of which has a VAE with a weight that is not finite."""
    vae = make_vae("small")
    autoencoder = WanAutoencoder(vae, ranks)
    if ranks.rank == spoilt_rank:
        name = "decoder.conv_out.bias"  # what is added last: infinity stays infinity
        bias = next(parameter for full, parameter in vae.named_parameters() if full.replace(".conv.", ".") == name)
        bias.data[0] = value
    latents = torch.randn(vae.config.z_dim, 3, rows, 4, generator=torch.Generator().manual_seed(0))
    try:
        deque(autoencoder.decode(latents, CollectiveMeter()), maxlen=0)
    except NotFiniteError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(("value", "spoilt_rank", "rows"), [(math.nan, 1, 5), (math.inf, 0, 5), (-math.inf, 1, 2)])
def test_frames_that_are_not_finite_on_one_rank_are_an_error_on_all(
    gang: Gang, value: float, spoilt_rank: int, rows: int
) -> None:
    """With two rows the third rank has none, and would have waited for the others."""
    words = gang.run(decode_what_is_not_finite, Degrees(ring=3), value, spoilt_rank, rows, timeout_seconds=30)
    assert words == [words[0]] * 3 and f"decoded frames are not finite on rank {spoilt_rank}:" in words[0]
