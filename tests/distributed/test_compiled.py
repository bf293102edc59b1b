"""Compiled blocks give what blocks give as they are, and each kind of block is compiled once.

What is compiled, and how often, is up to Dynamo, whatever makes kernels of its graphs. So most cases leave kernels out
(the backend "aot_eager"), and one model of each family makes them, which takes a minute or more.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine
from engine.execution import compiling
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from parallel.torch_private import compilations, compiled
from tests.support.gang import Gang
from tests.support.parity import difference
from tests.support.slow import all_slow_but
from tests.support.small_model import ROOT
from tests.support.tiny_models import TINY_MODELS, TinyFolders

MODELS = {model.name: model for model in CATALOG}
KINDS = {
    "Wan 2.1 T2V 14B": 1,
    "Wan 2.1 I2V 14B 480P": 1,
    "Wan 2.2 TI2V 5B": 1,
    "Wan 2.2 T2V A14B": 1,  # both experts have the same blocks
    "HunyuanVideo": 2,  # dual-stream and single-stream
    "HunyuanVideo I2V": 2,
    "HunyuanVideo 1.5 T2V 480p": 1,
    "HunyuanVideo 1.5 I2V 480p": 1,
}
"""Kinds of blocks by model, which are the compilations that it needs."""
LAYOUTS = (Degrees(), Degrees(ulysses=2), Degrees(ring=2), Degrees(cfg=2))
KERNELS = ("Wan 2.1 T2V 14B", "HunyuanVideo", "HunyuanVideo 1.5 T2V 480p")
QUICK = [("aot_eager", Degrees(ulysses=2), "Wan 2.1 T2V 14B", False)]
CASES = [
    (backend, degrees, name, shared)
    for name in KINDS
    for degrees in LAYOUTS
    for shared in (False, True)
    for backend in ("aot_eager", "inductor")
    if (degrees.cfg == 1 or MODELS[name].facts.num_branches(5.0) == 2)
    and (degrees.world_size > 1 or not shared)
    and (backend == "aot_eager" or (name in KERNELS and degrees in LAYOUTS[:2] and not shared))
]


@dataclass(frozen=True)
class Made:
    """What a rank has made of some requests, one after the other."""

    latents: list[torch.Tensor]
    actions: list[list[str]]
    compiled: list[list[int]]
    """Compilations since loading, before the first step and after each, of each request."""
    notes: list[str]


class Watch(Progress):
    def __init__(self) -> None:
        self.since = compilations()
        self.counts: list[list[int]] = []
        self.notes: list[str] = []
        self.actions: list[list[str]] = []

    def stage(self, name: str) -> None:
        if name == "denoise":
            self.counts.append([compilations() - self.since])
            self.actions.append([])

    def step(self, index: int, total: int, action: str) -> None:
        self.counts[-1].append(compilations() - self.since)
        self.actions[-1].append(action)

    def note(self, line: str) -> None:
        self.notes.append(line)


def make(ranks: Ranks, config: Config, requests: list[GenerationRequest], backend: str, kernels: Path) -> Made:
    torch.compiler.reset()  # the process may have compiled the blocks of another test's model
    place = {"TORCHINDUCTOR_CACHE_DIR": str(kernels), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    compile_so = functools.partial(compiled, backend=backend)
    with mock.patch.dict(os.environ, place), mock.patch.object(compiling, "compiled", compile_so):
        watch = Watch()
        engine = Engine(load_model(config, ranks), watch)
        latents = [engine.generate(request).latents for request in requests]
    return Made(latents, watch.actions, watch.counts, watch.notes)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folders, kernels = TinyFolders(tmp_path_factory.mktemp("models")), tmp_path_factory.mktemp("kernels")

    def ask(name: str, is_compiled: bool, shared: bool, backend: str) -> tuple[Any, ...]:
        """A request; another of the same size, with another text; another of another size."""
        overrides = [*folders.overrides(name), f"runtime.compile={str(is_compiled).lower()}"]
        overrides += [f"parallel.shard_weights={str(shared).lower()}", "sampling.steps=8"]
        overrides += [f"cache.threshold={TINY_MODELS[name].threshold}", "cache.warmup_ratio=0.25"]
        config = load_config(ROOT / "configs" / MODELS[name].recipe, overrides)
        larger = config.sampling.model_copy(update={"width": 2 * config.sampling.width, "steps": 2})
        negative = "a square" if MODELS[name].facts.num_branches(5.0) == 2 else ""
        wanted = (("a red circle", 11, config.sampling), ("a blue square moving slowly left", 12, config.sampling))
        wanted += (("a red circle", 13, larger),)
        images = folders.images(name)
        requests = [make_request([prompt], negative, seed, size, *images) for prompt, seed, size in wanted]
        return config, requests, backend, kernels

    return ask


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("backend", "degrees", "name", "shared"), all_slow_but(QUICK, CASES), ids=str)
def test_compiled_blocks_give_the_same(
    gang: Gang, ask: Any, backend: str, degrees: Degrees, name: str, shared: bool
) -> None:
    eager = gang.run(make, degrees, *ask(name, False, shared, backend), timeout_seconds=200)[0]
    for made in gang.run(make, degrees, *ask(name, True, shared, backend), timeout_seconds=600):
        assert {"compute", "skip"} <= set(made.actions[0])
        assert made.actions == eager.actions
        for latents, expected in zip(made.latents, eager.latents, strict=True):
            assert difference(latents, expected) <= 1e-5
        first, *others = made.compiled
        assert first == [0] + [KINDS[name]] * (len(first) - 1), "compiled at the first step, and never again"
        assert all(set(counts) == {KINDS[name]} for counts in others), "another request needs nothing new"
        assert sum("compiles" in note for note in made.notes) == 1
    assert not any("compiles" in note for note in eager.notes)
    assert {count for counts in eager.compiled for count in counts} == {0}
