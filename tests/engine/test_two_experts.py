"""Wan 2.2: two experts by noise level (A14B), and a timestep per token (TI2V 5B), in the whole engine."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

from dicache.controller import Controller
from engine.config import Config
from engine.engine import Engine, Result
from engine.errors import Cancelled
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.parity import difference, pipeline_video
from tests.support.slow import all_slow_but
from tests.support.small_model import CONFIG, PROMPT, tiny_config

# with flow shift 8 the first seven of 12 steps are at noise levels of 0.875 and above, and both experts skip
SHIFT, THRESHOLD = "sampling.shift=8", "cache.threshold=0.3"
FIRST_OF_SECOND = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained small model as the first expert, and one with each weight a little off as the second."""
    folder = tmp_path_factory.mktemp("experts")
    pipeline = WanPipeline.from_pretrained(CONFIG.parent / "tiny_wan")
    second = deepcopy(pipeline.transformer).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in second.parameters():
        parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    parts = {name: getattr(pipeline, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")}
    WanPipeline(**parts, transformer_2=second, boundary_ratio=0.875).save_pretrained(folder)
    return folder


def configured(folder: Path, *overrides: str) -> Config:
    threshold = () if "cache.method=none" in overrides else (THRESHOLD,)  # refused where nothing is skipped
    return tiny_config(f"model.path={folder}", SHIFT, *threshold, *overrides)


def asked(config: Config) -> GenerationRequest:
    return make_request([PROMPT], "a green triangle", 11, config.sampling)


def generate(ranks: Ranks, config: Config) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(asked(config))


def edit_index(folder: Path, copy: Path, **changes: Any) -> Path:
    """The same model with other entries in its index."""
    copy.mkdir()
    for part in folder.iterdir():
        if part.name != "model_index.json":
            (copy / part.name).symlink_to(part)
    index = json.loads((folder / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | changes))
    return copy


CASES = {
    "one guidance": (),
    "two guidances": ("sampling.low_noise_guidance=2.5",),
    "no guidance": ("sampling.guidance=1",),
    "second without guidance": ("sampling.low_noise_guidance=1",),
    "euler": ("sampling.scheduler=euler", "sampling.low_noise_guidance=7"),
}


@pytest.mark.parametrize("case", all_slow_but(list(CASES)[:2], CASES))
def test_two_experts_give_the_pipelines_latents(folder: Path, case: str) -> None:
    config = configured(folder, "cache.method=none", *CASES[case])
    expected = pipeline_video(config, asked(config))
    latents = generate(Ranks(), config).latents
    assert difference(latents, expected) <= 1e-5


@pytest.mark.parametrize("boundary_ratio", all_slow_but([1.0], [0.0, 1.0]))
def test_an_expert_without_steps_changes_nothing(folder: Path, tmp_path: Path, boundary_ratio: float) -> None:
    one_only = edit_index(folder, tmp_path / "model", boundary_ratio=boundary_ratio)
    config = configured(one_only, "cache.method=none")
    expected = pipeline_video(config, asked(config))
    latents = generate(Ranks(), config).latents
    assert difference(latents, expected) <= 1e-5
    assert not torch.equal(latents, generate(Ranks(), configured(folder, "cache.method=none")).latents)


def test_a_timestep_per_token_gives_the_pipelines_latents(folder: Path, tmp_path: Path) -> None:
    changes = {"expand_timesteps": True, "transformer_2": [None, None], "boundary_ratio": None}
    config = configured(edit_index(folder, tmp_path / "model", **changes), "cache.method=none")
    expected = pipeline_video(config, asked(config))
    latents = generate(Ranks(), config).latents
    assert difference(latents, expected) <= 1e-5


def actions(result: Result, branch: str = "cond") -> str:
    """One letter a step: w, c or s."""
    assert result.report
    return "".join(row["action"][0] for row in result.report["steps"] if row["branch"] == branch)


def test_the_second_expert_begins_with_a_computed_step_and_both_skip(folder: Path) -> None:
    for overrides in ((), ("cache.warmup_ratio=0",), ("cache.method=fbcache", "cache.warmup_ratio=0")):
        result = generate(Ranks(), configured(folder, *overrides))
        first, second = actions(result)[:FIRST_OF_SECOND], actions(result)[FIRST_OF_SECOND:]
        assert "s" in first and "s" in second
        assert result.report and second[0] in "wc"
        row = result.report["steps"][2 * FIRST_OF_SECOND]
        assert row["timestep"] < 875 and row["indicator"] is None, "nothing is measured against another expert"


def test_the_report_tells_of_both(folder: Path, tmp_path: Path) -> None:
    report = generate(Ranks(), configured(folder)).report
    alone = generate(Ranks(), tiny_config(SHIFT, THRESHOLD)).report
    second_only = generate(Ranks(), configured(edit_index(folder, tmp_path / "model", boundary_ratio=1.0))).report
    assert report and alone and second_only
    assert report["model"]["parameters"] == 2 * alone["model"]["parameters"]
    assert report["model"]["boundary_timestep"] == 875 and alone["model"]["boundary_timestep"] is None
    cache_bytes = [document["totals"]["cache_bytes_per_rank"] for document in (report, alone, second_only)]
    assert len(set(cache_bytes)) == 1, "one expert's cache at a time, and none is forgotten"


@pytest.mark.parametrize(
    ("degrees", "decide"),
    [(Degrees(ulysses=2), "together"), (Degrees(ring=3), "per_branch"), (Degrees(cfg=2), "per_branch")],
    ids=str,
)
def test_the_schedule_and_the_latents_do_not_depend_on_the_layout(
    gang: Gang, folder: Path, degrees: Degrees, decide: str
) -> None:
    config = configured(folder, f"cache.decide={decide}")
    expected = generate(Ranks(), config)
    results = gang.run(generate, degrees, config)
    for branch in ("cond", "uncond"):
        assert actions(results[0], branch) == actions(expected, branch)
    for result in results:
        assert (result.latents - expected.latents).abs().max() <= 1e-5 * expected.latents.abs().max()


def test_the_first_step_of_each_expert_may_take_as_long_as_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr("engine.generation.denoising.set_timeouts", limits.append)
    config = configured(folder, "runtime.load_timeout_seconds=500", "runtime.step_timeout_seconds=50")
    at: list[list[float]] = []

    class Noting(Progress):
        def step(self, index: int, total: int, action: str) -> None:
            at.append([*limits])
            limits.clear()

    Engine(load_model(config, Ranks()), Noting()).generate(asked(config))
    assert [step for step, changes in enumerate(at) if changes] == [0, FIRST_OF_SECOND]
    assert at[0] == at[FIRST_OF_SECOND] == [500, 50]


class After(Progress):
    """Does something when a step is done."""

    def __init__(self, index: int, act: Callable[[], None]) -> None:
        self._index, self._act = index, act

    def step(self, index: int, total: int, action: str) -> None:
        if index == self._index:
            self._act()


@pytest.fixture
def controllers(monkeypatch: pytest.MonkeyPatch) -> list[Controller]:
    """Those that a generation makes, in the order of the experts."""
    made: list[Controller] = []

    class Noted(Controller):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("engine.generation.denoising.Controller", Noted)
    return made


def poison(controller: Controller) -> int:
    """Overwrite all that a controller keeps; how many tensors that was."""
    slots = [
        slot
        for trajectory in [cache._trajectory for cache in controller._by_key.values()]
        for ring in (*trajectory._signals.values(), trajectory._residuals)
        for slot in ring._slots
    ]
    for slot in slots:
        slot.fill_(1e3)
    return len(slots)


def test_nothing_of_the_first_experts_cache_reaches_the_second(folder: Path, controllers: list[Controller]) -> None:
    config = configured(folder)
    clean = generate(Ranks(), config)
    assert actions(clean)[5:9] == "ssws", "a skipped step on either side of where the poison goes in"

    def poisoned_after(step: int) -> torch.Tensor:
        controllers.clear()
        counts: list[int] = []
        progress = After(step, lambda: counts.append(poison(controllers[0])))
        latents = Engine(load_model(config, Ranks()), progress).generate(asked(config)).latents
        assert counts == [2 * 5], "of both branches: two residuals, two probe residuals and a probe"
        return latents

    assert not torch.equal(poisoned_after(FIRST_OF_SECOND - 2), clean.latents), "the poison must work where it can"
    assert torch.equal(poisoned_after(FIRST_OF_SECOND - 1), clean.latents)


def test_the_first_experts_cache_is_freed_when_the_second_begins(folder: Path, controllers: list[Controller]) -> None:
    config, held = configured(folder), []
    for step in (FIRST_OF_SECOND - 1, FIRST_OF_SECOND):
        controllers.clear()
        progress = After(step, lambda: held.append([controller.cache_bytes for controller in controllers]))
        Engine(load_model(config, Ranks()), progress).generate(asked(config))
    assert held[0][0] > 0 and held[0][1] == 0
    assert held[1][0] == 0 and held[1][1] > 0


@pytest.mark.parametrize("step", all_slow_but([FIRST_OF_SECOND], [3, FIRST_OF_SECOND, 9]))
def test_a_cancelled_request_leaves_nothing_behind(folder: Path, step: int) -> None:
    config = configured(folder)
    engine, count = Engine(load_model(config, Ranks()), Progress()), iter(range(-1, 100))
    with pytest.raises(Cancelled, match=rf"step {step}\."):
        engine.generate(asked(config), control=lambda: Control.CANCEL if next(count) == step else Control.RUN)
    fresh = generate(Ranks(), config).latents
    for _ in range(2):
        assert torch.equal(engine.generate(asked(config)).latents, fresh)


def test_a_report_is_replayed_by_both(folder: Path, tmp_path: Path) -> None:
    config = configured(folder)
    result = generate(Ranks(), config)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(result.report))
    again = generate(Ranks(), configured(folder, f"cache.replay={path}", "cache.threshold=0"))
    assert actions(again) == actions(result)
    assert torch.equal(again.latents, result.latents)
