"""Ranges of blocks that each guidance branch skips at steps of its own: the engine follows any plan of segments, on
ranks that hold all weights and on ranks that hold a part of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from dicache.controller import Lane, Segment
from dicache.estimators.reuse import Reuse
from dicache.gates.fixed import FixedGate
from dicache.methods import Method
from dicache.segments import Scheme
from engine.config import Config
from engine.engine import Engine, Result
from engine.errors import Paused
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.pipeline import ask
from tests.support.small_model import PROMPT, tiny_config

STEPS, BLOCKS, SEED = 8, 12, 5
SIZE = ("sampling.frames=5", "sampling.height=48", "sampling.width=112")
SMALL = (f"sampling.steps={STEPS}", *SIZE, "cache.decide=per_branch")
FRONT, BETWEEN, BACK = Segment(0, 4), Segment(4, 7), Segment(7, BLOCKS)
SKIPS = {  # by range and branch
    (FRONT, "cond"): (2, 3, 6),
    (FRONT, "uncond"): (3, 5, 6),
    (BACK, "cond"): (1, 3, 4),
    (BACK, "uncond"): (1, 2, 3, 7),
}


def ranges(_: Any, lanes: Sequence[Lane], *others: Any) -> Scheme:
    """A method by the clock, as Delta-DiT and SkipCache are: two ranges are reused, and what is between them runs."""

    def reused(segment: Segment) -> Method:
        gate = FixedGate({lane: frozenset(SKIPS[segment, lane.branch]) for lane in lanes})
        return Method(gate, Reuse(), anchor="probe")

    return Scheme(0, ((FRONT, reused(FRONT)), (BETWEEN, None), (BACK, reused(BACK))))


class ReusedRanges(nn.Module):
    """All blocks in the place of one, the same by hand. Even calls are cond, odd ones uncond."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks, self.count, self.kept = blocks, 0, {}

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        branch, step = ("cond", "uncond")[self.count % 2], self.count // 2
        self.count += 1
        for segment in (FRONT, BETWEEN, BACK):
            key = segment, branch
            if step in SKIPS.get(key, ()):
                x = x + self.kept[key]
                continue
            entering = x
            for block in self.blocks[segment.start : segment.stop]:
                x = block(x, *conditions)
            self.kept[key] = x - entering
        return x


@pytest.fixture(scope="module")
def expected() -> Tensor:
    config = tiny_config(*SMALL)
    pipeline = WanPipeline.from_pretrained(config.model.path)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.blocks = nn.ModuleList([ReusedRanges(pipeline.transformer.blocks)])
    return ask(pipeline, config, SEED)


def generate(ranks: Ranks, config: Config, folder: Path) -> list[Result]:
    """The video in one go, and in two, with a pause between."""
    with mock.patch("dicache.controller.build_scheme", ranges):
        engine = Engine(load_model(config, ranks), Progress())
        request = make_request([PROMPT], "", SEED, config.sampling)
        whole = engine.generate(request)
        asked = iter(range(100))
        with pytest.raises(Paused):
            engine.generate(
                request, checkpoint=folder, control=lambda: Control.PAUSE if next(asked) == 5 else Control.RUN
            )
        return [whole, engine.generate(request, checkpoint=folder)]


@pytest.mark.parametrize("shard_weights", [False, True], ids=["whole weights", "shared weights"])
@pytest.mark.parametrize(
    "degrees",
    [Degrees(), Degrees(ring=3), Degrees(cfg=2), pytest.param(Degrees(cfg=2, ulysses=2), marks=pytest.mark.slow)],
    ids=str,
)
def test_every_layout_reuses_the_same_ranges(
    gang: Gang, expected: Tensor, tmp_path: Path, degrees: Degrees, shard_weights: bool
) -> None:
    config = tiny_config(*SMALL, f"parallel.shard_weights={str(shard_weights).lower()}")
    for results in gang.run(generate, degrees, config, tmp_path):
        for result in results:
            assert (result.latents - expected).abs().max() < 1e-5 * expected.abs().max()
        assert torch.equal(results[0].latents, results[1].latents), "a pause changes nothing"
        if results[0].report is None:
            continue
        for result in results:
            rows = result.report["steps"]
            for number, segment in enumerate((FRONT, BACK)):
                of_segment = [row for row in rows if row.get("segment", 0) == number]
                for branch in ("cond", "uncond"):
                    skipped = tuple(
                        row["step"] for row in of_segment if (row["branch"], row["action"]) == (branch, "skip")
                    )
                    assert skipped == SKIPS[segment, branch]
            every, left_out = 2 * STEPS * BLOCKS, sum(s.num_blocks * len(steps) for (s, _), steps in SKIPS.items())
            assert result.report["totals"]["block_fraction"] == (every - left_out) / every
        assert results[1].report["resumed_at"] == [4]
