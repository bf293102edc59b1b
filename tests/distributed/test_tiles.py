"""Tiles of HunyuanVideo's autoencoders are shared out over ranks: equal bytes on any number of them, little memory,
work for all, and no rank that waits in vain."""

import itertools
import math
import os
import time
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.components.hunyuan_autoencoder import HunyuanAutoencoder
from engine.components.tiling import blend
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.media.video import to_uint8
from engine.models.catalog import CATALOG
from engine.progress import Progress
from engine.request import make_request
from parallel.agreement import NotFiniteError
from parallel.degrees import Degrees
from parallel.lengths import share_out
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks, set_timeouts
from parallel.tiles import shared_tiles
from tests.support.gang import Gang
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.live_tensors import LiveTensors
from tests.support.small_model import tiny_config
from tests.support.vaes import SCALE, make_hunyuan_vae, random_latents

# latent frames, rows and columns: several chunks of time and tiles that nothing divides; one chunk; one tile; a last
# chunk whose one frame belongs to the one before, and one row of tiles
SIZES = {
    "1.0": [(8, 15, 19), (3, 15, 9), (2, 5, 8), (7, 8, 21)],
    "1.5": [(3, 7, 9), (2, 4, 8), (1, 3, 3)],
}


def decode(
    ranks: Ranks, kind: str, sizes: list[tuple[int, int, int]]
) -> list[tuple[Tensor | None, int, dict[str, Any]]]:
    """Frames, bytes of tiles that were sent, and who made how much, for each size."""
    autoencoder = HunyuanAutoencoder(make_hunyuan_vae(kind), ranks)
    results = []
    for size in sizes:
        meter = CollectiveMeter()
        frames = list(autoencoder.decode(random_latents(*size), meter))
        shares = autoencoder.shares(random_latents(*size))
        results.append((torch.cat(frames) if frames else None, meter.sent_bytes["vae_tiles"], shares))
    return results


@pytest.fixture(scope="module")
def diffusers_frames() -> dict[str, list[Tensor]]:
    """What diffusers decodes in tiles, of every size."""
    frames = {}
    for kind in SIZES:
        vae = make_hunyuan_vae(kind)
        vae.enable_tiling()
        with torch.inference_mode():
            videos = [vae.decode(random_latents(*size)[None] / vae.config.scaling_factor) for size in SIZES[kind]]
        frames[kind] = [to_uint8(video.sample[0]).permute(1, 2, 3, 0) for video in videos]
    return frames


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_any_number_of_ranks_decodes_the_bytes_of_diffusers(
    gang: Gang, diffusers_frames: dict[str, list[Tensor]], num_ranks: int, kind: str
) -> None:
    if num_ranks == 1:
        first, others = decode(Ranks(), kind, SIZES[kind]), []
    else:
        first, *others = gang.run(decode, Degrees(ring=num_ranks), kind, SIZES[kind])
    for size, expected, (frames, _, shares) in zip(SIZES[kind], diffusers_frames[kind], first, strict=True):
        assert expected.float().std() > 1, "a flat picture would hide mistakes"
        assert frames is not None and torch.equal(frames, expected), size
        assert shares["cut"] == "tiles" and len(shares["per_rank"]) == num_ranks
    assert all(frames is None for rank in others for frames, _, _ in rank)
    if num_ranks > 1:
        assert min(first[0][2]["per_rank"]) > 0, "all ranks have work"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_blending_is_that_of_diffusers_bit_for_bit(dtype: torch.dtype) -> None:
    vae = make_hunyuan_vae("1.0")
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(1, 3, 17, 20, 24, generator=generator).to(dtype) for _ in range(2))
    for dim, theirs in ((2, vae.blend_t), (3, vae.blend_v), (4, vae.blend_h)):
        for extent in (0, 7, 16, 64):
            ours = after.clone()
            blend(before, ours, extent, dim)
            assert torch.equal(ours, theirs(before, after.clone(), extent)), (dim, extent)


@pytest.mark.parametrize("kind", SIZES)
def test_bytes_sent_are_those_of_the_tiles(gang: Gang, kind: str) -> None:
    """A tile goes to the first rank once: 3 x frames x height x width numbers."""
    (frames, rows, columns), scale = SIZES[kind][0], SCALE[kind]
    size, stride = 64 // scale, 48 // scale
    times = [min(5, frames - t) for t in range(0, frames, 3)] if kind == "1.0" else [frames]
    heights, widths = ([min(size, n - i) for i in range(0, n, stride)] for n in (rows, columns))
    numbers = [
        3 * (4 * t - 3) * scale * scale * height * width
        for t, height, width in itertools.product(times, heights, widths)
    ]
    owners = [owner for owners in share_out(numbers, 3) for owner in owners]
    ranks = gang.run(decode, Degrees(ring=3), kind, SIZES[kind][:1])
    for rank, ((_, sent, shares),) in enumerate(ranks):
        assert shares["per_rank"] == [owners.count(rank) for rank in range(3)]
        of_rank = [number for number, owner in zip(numbers, owners, strict=True) if owner == rank]
        assert sent == (0 if rank == 0 else 4 * sum(of_rank))


@pytest.mark.parametrize("name", ["HunyuanVideo", "HunyuanVideo 1.5 T2V 720p"])
@pytest.mark.parametrize("num_ranks", [2, 3, 4, 8])
def test_every_rank_has_as_much_to_do(name: str, num_ranks: int) -> None:
    """At the published size, and at any moment: a rank that has less is the next to get a tile."""
    (model,) = [row for row in CATALOG if row.name == name]
    kind = "1.5" if "1.5" in name else "1.0"
    with torch.device("meta"):
        vae = make_hunyuan_vae(kind)
        vae.enable_tiling(256, 256, *([16] * 2 if kind == "1.5" else [None, 192, 192]))
        autoencoder = HunyuanAutoencoder(vae, Ranks(Degrees(ulysses=num_ranks)))
        shapes = autoencoder._cut(torch.empty(model.facts.latents_shape(*model.video))).shapes(autoencoder._vae)
    assert len(shapes) == (308 if kind == "1.0" else 28)
    costs = [prod(shape) for shape in shapes]
    numbers = iter(costs)
    loads = [0] * num_ranks
    for owners in share_out(costs, num_ranks):
        for owner, cost in zip(owners, numbers, strict=False):
            loads[owner] += cost
        assert max(loads) - min(loads) <= max(costs)
    assert sum(loads) == sum(costs)
    assert max(loads) / (sum(loads) / num_ranks) < (1.03 if kind == "1.0" else 1.2)


def peak_bytes(ranks: Ranks, lengths: tuple[int, ...]) -> list[int]:
    """The most bytes held while a video of each number of latent frames is decoded."""
    autoencoder = HunyuanAutoencoder(make_hunyuan_vae("1.0"), ranks)
    peaks = []
    for length in lengths:
        latents = random_latents(length, 11, 14)
        with LiveTensors() as live:
            for _ in autoencoder.decode(latents, CollectiveMeter()):
                pass
        peaks.append(live.peak)
    return peaks


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_memory_does_not_grow_with_length(gang: Gang, num_ranks: int) -> None:
    short, long = lengths = (14, 44)
    latents_bytes = (long - short) * 4 * 11 * 14 * 4
    frames_bytes = (long - short) * 4 * 3 * 88 * 112 * 4
    ranks = [peak_bytes(Ranks(), lengths)] if num_ranks == 1 else gang.run(peak_bytes, Degrees(ulysses=2), lengths)
    for shorter, longer in ranks:
        assert shorter > frames_bytes / 30, "or nothing was measured"
        assert longer - shorter <= 4 * latents_bytes < frames_bytes / 10


def spoil(ranks: Ranks, value: float, spoilt_rank: int) -> str:
    """The error of a rank, one of which has a VAE with a weight that is not finite."""
    vae = make_hunyuan_vae("1.0")
    if ranks.rank == spoilt_rank:
        vae.decoder.conv_out.conv.bias.data[0] = value
    try:
        return str(len(list(HunyuanAutoencoder(vae, ranks).decode(random_latents(8, 9, 9), CollectiveMeter()))))
    except NotFiniteError as error:
        return str(error)


@pytest.mark.parametrize(("value", "spoilt_rank"), [(math.nan, 1), (math.inf, 0), (-math.inf, 2)])
def test_frames_that_are_not_finite_on_one_rank_are_an_error_on_all(gang: Gang, value: float, spoilt_rank: int) -> None:
    words = gang.run(spoil, Degrees(ring=3), value, spoilt_rank)
    assert words == [words[0]] * 3 and f"decoded frames are not finite on rank {spoilt_rank}:" in words[0]
    assert "model.vae_dtype=float32" in words[0]


def die(ranks: Ranks, dying_rank: int) -> None:
    """One rank's process ends in the middle of its tiles."""
    tiles = itertools.count()

    def compute(number: int) -> Tensor:
        if ranks.rank == dying_rank and next(tiles) == 2:
            os._exit(3)
        return torch.zeros(4)

    for _ in shared_tiles([(4,)] * 40, torch.float32, compute, "x", "y", ranks, CollectiveMeter()):
        pass


@pytest.mark.parametrize("dying_rank", [0, 1])
def test_a_rank_that_dies_ends_the_others(gang: Gang, dying_rank: int) -> None:
    outcomes = gang.outcomes(die, Degrees(ulysses=2), dying_rank)
    assert outcomes[dying_rank].error == "died"
    assert "shared_tiles" in (outcomes[1 - dying_rank].error or "")


def work_slowly(ranks: Ranks, limit_seconds: float) -> float:
    """Seconds for tiles that take much longer than the limit on a wait for other ranks."""

    def compute(number: int) -> Tensor:
        time.sleep(0.25 if ranks.rank else 0.1)
        return torch.full((4,), float(number))

    set_timeouts(limit_seconds)
    started = time.monotonic()
    try:
        tiles = list(shared_tiles([(4,)] * 40, torch.float32, compute, "x", "y", ranks, CollectiveMeter()))
    finally:
        set_timeouts(60)
    assert [float(tile[0]) for tile in tiles] == ([] if ranks.rank else list(range(40)))
    return time.monotonic() - started


def test_no_wait_is_as_long_as_the_decoding(gang: Gang) -> None:
    seconds = gang.run(work_slowly, Degrees(ulysses=2), 2.0)
    assert min(seconds) > 4, "twenty tiles of the slower rank"


def make_video(ranks: Ranks, folder: Path, output: Path) -> dict[str, Any] | None:
    """The report of a request at a size with several tiles; the checkpoint's VAE has tiles of 64 pixels here."""
    sizes = ("sampling.height=96", "sampling.width=112", "sampling.frames=25", "sampling.steps=2")
    config = tiny_config(f"model.path={folder}", "sampling.scheduler=euler", "cache.method=none", *sizes)
    model = load_model(config, ranks)
    model.autoencoder._vae.enable_tiling(64, 64, None, 48, 48)  # type: ignore[attr-defined]
    request = make_request(["a red circle"], "", 7, config.sampling)
    return Engine(model, Progress()).generate(request, output=output).report


def test_a_request_says_who_decoded_what(gang: Gang, tmp_path: Path) -> None:
    folder = write_hunyuan_checkpoint(tmp_path / "model")
    alone = make_video(Ranks(), folder, tmp_path / "one.mp4")
    report, other = gang.run(make_video, Degrees(ulysses=2), folder, tmp_path / "two.mp4")
    assert alone is not None and report is not None and other is None
    assert alone["output"]["videos"][0]["decoded"] == {"cut": "tiles", "per_rank": [12]}
    assert report["output"]["videos"][0]["decoded"] == {"cut": "tiles", "per_rank": [6, 6]}
    kinds = report["totals"]["collective_bytes_by_kind"]
    assert kinds["vae_tiles"] > 0 and kinds["vae_agreement"] > 0
    assert "vae_tiles" not in alone["totals"]["collective_bytes_by_kind"]
