"""The comparison with other libraries: counted work, turns, what is kept between videos, and the table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig
from torch import Tensor

from engine.errors import InvalidInput
from launch.benchmarks.peers.__main__ import main
from launch.benchmarks.peers.contestant import BrokenOff, Made
from launch.benchmarks.peers.counting import Work, WorkCount
from launch.benchmarks.peers.entries import LIBRARIES, SHIPPED, Entry, read_entries
from launch.benchmarks.peers.pipelines import Hooked, Pipeline, Prompts
from launch.benchmarks.peers.rows import curves, make_row, make_rows, to_document, to_markdown
from launch.benchmarks.peers.turns import Run, Turns, keeps
from tests.support.small_model import PROMPT, tiny_config


def entry(name: str = "steady", library: Any = "diffusers", settings: Any = ({"threshold": 0.1},)) -> Entry:
    return Entry(name=name, library=library, settings=settings, several_ranks="unknown")


class Stub:
    """Makes one pixel. It may keep what it was told of the videos before, and take any time."""

    def __init__(self, seconds: float = 1.0, leaks: bool = False, error: str = "") -> None:
        self.seconds, self.leaks, self.error = seconds, leaks, error
        self.kept, self.value = 0.0, 0.0
        self.made: list[int] = []

    def set_up(self, setting: Mapping[str, Any]) -> None:
        self.kept = 0.0
        self.value = float(setting.get("threshold", 0.0))

    def make(self, number: int, break_off: bool = False) -> Made:
        if self.error:
            raise IndexError(self.error)
        self.made.append(number)
        latents = torch.full((1, 1, 1, 1, 1), 1.0 + number + self.value + self.kept)
        if self.leaks:
            self.kept += 1.0
        if break_off:
            raise BrokenOff
        return Made(latents, self.seconds * (1 + number), Work(0.5, 0.25))


def decode(latents: Tensor) -> Tensor:
    return (latents * 50).to(torch.uint8).reshape(1, 1, 1, 1).expand(1, 8, 8, 3)


def test_work_is_counted_where_a_hook_skips_blocks() -> None:
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, ffn_dim=16,
        num_layers=3, freq_dim=16,
    )  # fmt: skip
    count = WorkCount(transformer)
    inputs = {
        "hidden_states": torch.ones(1, 4, 1, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.ones(1, 2, 8),
    }

    def twice() -> Work:
        for _ in range(2):
            with torch.inference_mode(), transformer.cache_context("cond"):
                transformer(**inputs)
        return count.take(2)

    assert twice() == Work(1.0, 1.0)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    assert twice() == Work(4 / 6, 4 / 6), "all blocks of the first call, the first block of the second"
    assert count.take(2) == Work(0, 0)
    transformer.disable_cache()
    modules = TaylorSeerCacheConfig(2, 1, cache_identifiers=[r"blocks\.\d+\.(attn1|ffn)"])
    transformer.enable_cache(modules)
    assert twice() == Work(0.5, 0.5), "calls of the parts, whose forward passes were replaced, do not count"


def test_a_ratio_is_to_the_plain_runs_around_it() -> None:
    plain, slow = Stub(), Stub(seconds=3.0)
    turns = Turns(plain, [(entry(), slow)], {"diffusers": plain})
    done: list[int] = []
    turns.run(2, 2, decode, lambda _: None, lambda: done.append(len(turns.outcomes[0].runs[0])))
    assert done == [2, 4, 4], "results can be written after each prompt"
    (runs,) = turns.outcomes[0].runs
    assert [(run.prompt, run.round, run.seconds, run.ratio) for run in runs] == [
        (0, 0, 3, 3), (0, 1, 3, 3), (1, 0, 6, 3), (1, 1, 6, 3)
    ]  # fmt: skip
    assert all(run.psnr < 40 for run in runs), "the pixel differs by the threshold"


def test_what_fails_is_a_row_with_its_error_and_the_others_run() -> None:
    plain = Stub()
    bad, good = (entry("bad"), Stub(error="tuple index out of range")), (entry("good"), Stub())
    turns = Turns(plain, [bad, good], {"diffusers": plain})
    turns.run(1, 1, decode, lambda _: None)
    rows = make_rows(turns.outcomes)
    assert [row.name for row in rows] == ["good"]
    table = to_markdown(turns.outcomes, rows, "heading")
    assert "| diffusers | bad | fails: IndexError: tuple index out of range |" in table


@pytest.mark.parametrize("leaks", [False, True])
def test_what_is_kept_of_a_video_shows_in_the_next(leaks: bool) -> None:
    found = keeps(Stub(leaks=leaks), {"threshold": 0.0}, 3)
    assert found == dict.fromkeys(("finished", "broken off"), "latents differ by 33.3% of the largest" if leaks else "")


def test_a_row_has_means_of_quality_and_medians_of_time() -> None:
    found = [
        Run(i, 0, seconds, ratio, Work(blocks, 1.0), psnr, ssim)
        for i, (seconds, ratio, blocks, psnr, ssim) in enumerate(
            [(1, 0.5, 0.4, 40, 0.9), (2, 0.6, 0.5, 50, 0.8), (9, 4.0, 0.6, 45, 1.0)]
        )
    ]
    row = make_row("diffusers", "x", "y", found)
    assert (row.seconds, row.ratio, row.psnr, row.worst_psnr, row.worst_ssim) == (2, 0.6, 45, 40, 0.8)
    assert row.blocks == pytest.approx(0.5) and row.ssim == pytest.approx(0.9)
    assert "| 50%, 100% of attention | 0.60 | 2.00 | 45.0 (40.0) |" in to_markdown([], [row], "")


def test_videos_that_equal_the_uncached_one_are_no_point_of_a_curve() -> None:
    same = make_row("lockstep", "none", "", [Run(0, 0, 1, 1, Work(1, 1), 100.0, 1.0)])
    row = make_row("cache-dit", "DBCache", "", [Run(0, 0, 1, 0.5, Work(0.5, 0.5), 40.0, 0.9)])
    (curve,) = curves([same, row])
    assert (curve.name, curve.points, curve.style) == ("cache-dit DBCache", [(0.5, 40.0)], LIBRARIES.index("cache-dit"))
    assert "the same video" in to_markdown([], [same], "")
    assert to_document([], [same, row], {}, [])["rows"][1]["ratio"] == 0.5


def test_the_shipped_entries_are_read_and_faults_are_named(tmp_path: Path) -> None:
    entries = read_entries(SHIPPED)
    assert {entry.library for entry in entries} == set(LIBRARIES)
    file = tmp_path / "methods.yaml"
    file.write_text("- {name: a, library: xdit, settings: [{}], several_ranks: none}\n")
    with pytest.raises(InvalidInput, match="library"):
        read_entries(file)
    file.write_text("- &a {name: a, library: diffusers, settings: [{}], several_ranks: none}\n".replace("&a ", "") * 2)
    with pytest.raises(InvalidInput, match="diffusers a twice"):
        read_entries(file)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    small = ("sampling.steps=6", "sampling.frames=5", "sampling.height=32", "sampling.width=32")
    return Prompts.of(tiny_config(*small), [PROMPT, "a red square"], torch.device("cpu"))


@pytest.mark.parametrize(
    "config, never, often",
    [
        ("FirstBlockCacheConfig", {"threshold": 0.0}, {"threshold": 10.0}),
        ("MagCacheConfig", {"threshold": 0.0}, {"threshold": 10.0}),
        ("SeaCacheConfig", {"threshold": 0.0}, {"threshold": 10.0}),
        ("TaylorSeerCacheConfig", {"cache_interval": 1}, {"cache_interval": 3, "disable_cache_before_step": 1}),
    ],
)
def test_a_hook_that_never_skips_makes_the_plain_video(
    prompts: Prompts, config: str, never: dict[str, Any], often: dict[str, Any]
) -> None:
    always = {"use_lite_mode": True, "taylor_factors_dtype": "float32"} if config.startswith("Taylor") else {}
    given = Entry(name="x", library="diffusers", config=config, always=always, settings=[never], several_ranks="")
    hooked, plain = Hooked(prompts, given, [0.9] * 6), Pipeline(prompts).make(1)
    hooked.set_up(never)
    made = hooked.make(1)
    assert torch.equal(made.latents, plain.latents)
    assert made.work == plain.work == Work(1.0, 1.0)
    hooked.set_up(often)
    made = hooked.make(1)
    assert made.work.blocks < 0.9
    assert not torch.equal(made.latents, plain.latents)
    with pytest.raises(BrokenOff):
        hooked.make(1, break_off=True)


def test_what_cannot_be_compared_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config, written = Path("configs/tiny-wan.yaml"), tmp_path / "prompts.txt"
    with pytest.raises(InvalidInput, match=r"prompts\.txt"):
        main(config, written, tmp_path)
    written.write_text(PROMPT)
    other = tmp_path / "euler.yaml"
    text = config.read_text().replace("scheduler: unipc", "scheduler: euler")
    other.write_text(text.replace("path: tiny_wan", f"path: {config.resolve().parent / 'tiny_wan'}"))
    with pytest.raises(InvalidInput, match="sampler euler: use a Wan text-to-video model"):
        main(other, written, tmp_path)
