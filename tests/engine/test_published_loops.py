"""TeaCache, EasyCache and DBCache decide and estimate as in their authors' code, put into diffusers' own pipeline.

Those passes count calls to tell the guidance branches apart: even ones are cond, odd ones uncond.
"""

from dataclasses import replace
from types import MethodType

import numpy as np
import pytest
from diffusers import WanPipeline
from torch import Tensor, nn

from engine.engine import Engine
from engine.execution.loaded import LoadedModel, load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.pipeline import SMALL, STEPS, ask
from tests.support.small_model import PROMPT, tiny_config

POLYNOMIAL = (-3.0, 2.5, 0.4, 0.01)


def relative_l1(new: Tensor, old: Tensor) -> float:
    return ((new - old).abs().mean() / old.abs().mean()).item()


class TeaCachedBlocks(nn.Module):
    """All blocks in the place of one, as ``teacache_forward`` runs them."""

    def __init__(self, blocks: nn.ModuleList, embedder: nn.Module, signal: int, threshold: float, first: int) -> None:
        super().__init__()
        self.blocks, self.threshold, self.first, self.signal = blocks, threshold, first, signal
        self.last = STEPS if signal else STEPS - 1
        self.count, self.ran = 0, []
        self.accumulated, self.previous, self.residual = [0.0, 0.0], [None, None], [None, None]
        embedder.register_forward_hook(self.look)

    def look(self, _: nn.Module, args: object, embedded: tuple[Tensor, ...]) -> None:
        self.embedded = embedded[self.signal]  # e, or e0

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        branch, step = self.count % 2, self.count // 2
        self.count += 1
        compute = step < self.first or step >= self.last
        if compute:
            self.accumulated[branch] = 0.0
        else:
            change = relative_l1(self.embedded, self.previous[branch])
            self.accumulated[branch] += np.poly1d(POLYNOMIAL)(change)
            if self.accumulated[branch] >= self.threshold:
                compute, self.accumulated[branch] = True, 0.0
        self.previous[branch] = self.embedded
        self.ran.append(compute)
        if compute:
            y = x
            for block in self.blocks:
                y = block(y, *conditions)
            self.residual[branch] = y - x
        return x + self.residual[branch]


class DualCachedBlocks(nn.Module):
    """All blocks in the place of one, as cache-dit's ``CachedBlocks`` runs them without last blocks (F1B0, F2B0):
    each branch by itself (``enable_separate_cfg``), with -1 for no limit."""

    def __init__(self, blocks: nn.ModuleList, first: int, threshold: float, warmup: int, most: int, row: int) -> None:
        super().__init__()
        self.blocks, self.first, self.threshold = blocks, first, threshold
        self.warmup, self.most, self.row = warmup, most, row
        self.count, self.ran = 0, []
        self.cached = [[], []]
        self.kept, self.residual = [None, None], [None, None]

    def may_reuse(self, branch: int, step: int, added: Tensor) -> bool:
        cached = self.cached[branch]
        in_a_row = 0
        while step - 1 - in_a_row in cached:
            in_a_row += 1
        if step < self.warmup or len(cached) >= self.most >= 0 or in_a_row >= self.row >= 0:
            return False
        return self.kept[branch] is not None and relative_l1(added, self.kept[branch]) < self.threshold

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        branch, step = self.count % 2, self.count // 2
        self.count += 1
        start = x
        for block in self.blocks[: self.first]:
            x = block(x, *conditions)
        reuse = self.may_reuse(branch, step, x - start)
        self.ran.append(not reuse)
        if reuse:
            self.cached[branch].append(step)
            return x + self.residual[branch]
        self.kept[branch], y = x - start, x
        for block in self.blocks[self.first :]:
            y = block(y, *conditions)
        self.residual[branch] = y - x
        return y


class EasyCachedForward:
    """``easycache_forward`` around a forward pass."""

    def __init__(self, forward: object, threshold: float, retained: int) -> None:
        self.inner, self.threshold, self.retained = forward, threshold, retained
        self.count, self.ran, self.accumulated = 0, [], 0.0
        self.rate = self.previous = self.computed = self.velocity = None
        self.cached = [None, None]

    def __call__(self, _: nn.Module, hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor]:
        branch, step = self.count % 2, self.count // 2
        self.count += 1
        if branch == 0:
            self.compute = step < self.retained or step == STEPS - 1 or self.rate is None
            if not self.compute:
                moved = (hidden_states - self.previous).abs().mean()
                self.accumulated += (self.rate * moved / self.velocity.abs().mean()).item()
                self.compute = self.accumulated >= self.threshold
            if self.compute:
                self.accumulated = 0.0
            self.previous = hidden_states
        self.ran.append(self.compute)
        if not self.compute:
            return (hidden_states + self.cached[branch],)
        (velocity,) = self.inner(hidden_states, *args, **kwargs)
        if branch == 0:
            if self.velocity is not None:
                self.rate = (velocity - self.velocity).abs().mean() / (hidden_states - self.computed).abs().mean()
            self.computed, self.velocity = hidden_states, velocity
        self.cached[branch] = velocity - hidden_states
        return (velocity,)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(tiny_config(*SMALL), Ranks())


@pytest.fixture
def pipeline() -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(tiny_config().model.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compare(model: LoadedModel, pipeline: WanPipeline, ran: list[bool], *settings: str) -> None:
    config = tiny_config(*SMALL, *(f"cache.{setting}" for setting in settings))
    expected = ask(pipeline, config, 5)
    result = Engine(replace(model, config=config), Progress()).generate(make_request([PROMPT], "", 5, config.sampling))
    assert result.report
    assert [row["action"] != "skip" for row in result.report["steps"]] == ran
    assert {True, False} == set(ran[10:-2]), "the case must skip and compute to show anything"
    assert (result.latents - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("threshold", "use_ret_steps"), [(0.3, False), (0.6, False), (0.3, True)])
def test_teacache(model: LoadedModel, pipeline: WanPipeline, threshold: float, use_ret_steps: bool) -> None:
    transformer = pipeline.transformer
    first = 5 if use_ret_steps else 1
    cached = TeaCachedBlocks(transformer.blocks, transformer.condition_embedder, int(use_ret_steps), threshold, first)
    transformer.blocks = nn.ModuleList([cached])
    signal = "timestep_modulation" if use_ret_steps else "timestep_embedding"
    own = (f"gate.polynomial={list(POLYNOMIAL)}", f"gate.signal={signal}")
    published = (f"gate.use_ret_steps={str(use_ret_steps).lower()}", f"warmup_steps={first}", "decide=per_branch")
    compare(model, pipeline, cached.ran, "method=teacache", f"threshold={threshold}", *own, *published)


@pytest.mark.parametrize(("threshold", "retained"), [(0.2, 3), (0.4, 5)])
def test_easycache(model: LoadedModel, pipeline: WanPipeline, threshold: float, retained: int) -> None:
    cached = EasyCachedForward(pipeline.transformer.forward, threshold, retained)
    pipeline.transformer.forward = MethodType(cached, pipeline.transformer)
    compare(model, pipeline, cached.ran, "method=easycache", f"threshold={threshold}", f"warmup_steps={retained}")


@pytest.mark.parametrize(
    ("threshold", "first", "most", "row"), [(0.15, 1, -1, -1), (0.3, 1, 4, -1), (0.3, 1, -1, 1), (0.2, 2, 5, 2)]
)
def test_dbcache(model: LoadedModel, pipeline: WanPipeline, threshold: float, first: int, most: int, row: int) -> None:
    transformer = pipeline.transformer
    cached = DualCachedBlocks(transformer.blocks, first, threshold, 4, most, row)
    transformer.blocks = nn.ModuleList([cached])
    limits = {"max_skips": most, "max_consecutive_skips": row}
    given = [f"{name}={value}" for name, value in limits.items() if value >= 0]
    own = (f"threshold={threshold}", f"probe_depth={first}", "warmup_steps=4", "decide=per_branch", *given)
    compare(model, pipeline, cached.ran, "method=dbcache", *own)
