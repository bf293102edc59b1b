"""I2 and I3 for every published model: what the diffusers pipeline gives, and one schedule, on any layout.

Each layout is started once and makes the videos of all cases. To add a model is to add a row to ``CASES``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from diffusers import HunyuanVideoPipeline
from torch import Tensor

from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.parity import difference, pipeline_video
from tests.support.small_model import ROOT
from tests.support.tiny_models import TINY_MODELS, TinyFolders

LAYOUTS = (Degrees(ulysses=2), Degrees(ring=2), Degrees(ulysses=2, ring=2), Degrees(cfg=2, ulysses=2))
PLAIN = ("cache.method=none", "sampling.steps=3")
CACHED = ("cache.warmup_ratio=0.2", "sampling.steps=10")


@dataclass(frozen=True)
class Case:
    model: str  # name in the catalog
    prompts: tuple[str, ...] = ("a red circle",)
    images: int | None = None  # if not as many as the model's row says
    overrides: tuple[str, ...] = ()


CASES = {
    "2.1 T2V": Case("Wan 2.1 T2V 14B"),
    "2.1 I2V": Case("Wan 2.1 I2V 14B 480P"),
    "2.1 FLF2V": Case("Wan 2.1 FLF2V 14B 720P"),
    "2.2 T2V A14B": Case("Wan 2.2 T2V A14B"),
    "2.2 I2V A14B": Case("Wan 2.2 I2V A14B"),
    "2.2 TI2V 5B, text": Case("Wan 2.2 TI2V 5B", images=0),
    "2.2 TI2V 5B, image": Case("Wan 2.2 TI2V 5B"),
    "HunyuanVideo, text divides": Case("HunyuanVideo", ("a blue square moving left",)),
    "HunyuanVideo, text does not divide": Case("HunyuanVideo", ("a blue square moving slowly left",)),
    "HunyuanVideo, no padding": Case("HunyuanVideo", overrides=("sampling.max_sequence_length=5",)),
    "HunyuanVideo, two lengths": Case("HunyuanVideo", ("a red circle", "a blue square moving slowly left")),
}
MODELS = {model.name: model for model in CATALOG}
# reduced, these are another's twins: they differ in numbers alone
TWINS = {"Wan 2.1 T2V 1.3B", "Wan 2.1 I2V 14B 720P"}
# and the same is shown for these in test_hunyuan_images.py and test_hunyuan_video15.py, with more of their own
ELSEWHERE = {name for name in MODELS if name.startswith(("HunyuanVideo I2V", "HunyuanVideo 1.5"))}

Made = tuple[Tensor, Tensor, list[tuple[Any, ...]]]  # latents without and with the cache, its schedule
Requests = list[tuple[Config, Config, GenerationRequest, GenerationRequest]]


def make(ranks: Ranks, requests: Requests) -> list[Made]:
    """Each model is loaded once and makes its video without the cache and then with it."""
    made = []
    for plain, cached, without, with_cache in requests:
        model = load_model(plain, ranks)
        latents = Engine(model, Progress()).generate(without).latents
        result = Engine(replace(model, config=cached), Progress()).generate(with_cache)
        steps = result.report["steps"] if result.report else []
        schedule = [tuple(row[key] for key in ("step", "sample", "branch", "action")) for row in steps]
        made.append((latents, result.latents, schedule))
    return made


def is_guided(name: str) -> bool:
    return MODELS[CASES[name].model].facts.num_branches(5.0) == 2


def runs_on(name: str, degrees: Degrees) -> bool:
    return degrees.cfg == 1 or is_guided(name)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The two configurations of a case and its two requests."""
    folders = TinyFolders(tmp_path_factory.mktemp("models"))

    @functools.cache
    def asked(name: str) -> Any:
        case = CASES[name]
        images = folders.images(case.model, case.images)
        negative = "a square" if is_guided(name) else ""
        recipe = ROOT / "configs" / MODELS[case.model].recipe
        overrides = [*folders.overrides(case.model), *case.overrides]
        cached = (f"cache.threshold={TINY_MODELS[case.model].threshold}", *CACHED)
        configs = [load_config(recipe, [*overrides, *cache]) for cache in (PLAIN, cached)]
        return *configs, *(make_request(case.prompts, negative, 11, config.sampling, *images) for config in configs)

    return asked


@pytest.fixture(scope="module")
def alone(requests: Callable[[str], Any]) -> Callable[[str], Made]:
    return functools.cache(lambda name: make(Ranks(), [requests(name)])[0])


@pytest.fixture(scope="module")
def on_ranks(gang: Gang, requests: Callable[[str], Any]) -> Callable[[Degrees], dict[str, list[Made]]]:
    """What every rank of a layout made of each case."""

    @functools.cache
    def made(degrees: Degrees) -> dict[str, list[Made]]:
        names = [name for name in CASES if runs_on(name, degrees)]
        by_rank = gang.run(make, degrees, [requests(name) for name in names], timeout_seconds=110)
        return {name: [results[i] for results in by_rank] for i, name in enumerate(names)}

    return made


def test_every_model_has_a_case() -> None:
    assert {case.model for case in CASES.values()} == set(MODELS) - TWINS - ELSEWHERE


@pytest.mark.parametrize("name", CASES)
def test_one_rank_gives_the_pipelines_latents(name: str, requests: Any, alone: Any) -> None:
    plain, _, request, _ = requests(name)
    assert difference(alone(name)[0], pipeline_video(plain, request)) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_cache_computes_and_skips(name: str, alone: Any) -> None:
    """Else the comparison over layouts would show little."""
    *_, schedule = alone(name)
    assert {"compute", "skip"} <= {action for *_, action in schedule}, "".join(a[0] for *_, a in schedule)


@pytest.mark.parametrize(
    ("degrees", "name"),
    [
        pytest.param(degrees, name, marks=[pytest.mark.slow] * (degrees != Degrees(ulysses=2)))
        for degrees in LAYOUTS
        for name in CASES
        if runs_on(name, degrees)
    ],
    ids=str,
)
def test_a_layout_changes_nothing(degrees: Degrees, name: str, alone: Any, on_ranks: Any) -> None:
    plain, cached, schedule = alone(name)
    results = on_ranks(degrees)[name]
    assert results[0][2] == schedule
    for latents, with_cache, _ in results:
        assert difference(latents, plain) <= 1e-5
        assert difference(with_cache, cached) <= 1e-5


def test_texts_of_all_lengths(requests: Any) -> None:
    lengths = {name: text_tokens(*requests(name)[::2]) for name in CASES if name.startswith("HunyuanVideo, ")}
    ((divides, padded),) = lengths["HunyuanVideo, text divides"]
    ((other, _),) = lengths["HunyuanVideo, text does not divide"]
    ((whole, filled),) = lengths["HunyuanVideo, no padding"]
    assert divides % 4 == 0 and divides < padded and other % 2 and whole == filled
    first, second = lengths["HunyuanVideo, two lengths"]
    assert first[0] != second[0]


def text_tokens(config: Config, request: GenerationRequest) -> list[tuple[int, int]]:
    """Of each prompt the tokens of its text, and those with the padding."""
    pipeline = HunyuanVideoPipeline.from_pretrained(config.model.path, transformer=None, vae=None)
    *_, mask = pipeline.encode_prompt(
        prompt=list(request.prompts), max_sequence_length=request.sampling.max_sequence_length
    )
    return [(int(row.sum()), len(row)) for row in mask]
