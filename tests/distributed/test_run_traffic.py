"""All bytes of whole runs, from encoding to the written video: the formula's are the meter's, kind by kind."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config
from engine.config_file import load_config
from engine.cost.encode_traffic import NumberBytes
from engine.cost.ran import read_run
from engine.cost.run_traffic import agreed_sums, run_bytes
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.slow import all_slow_but
from tests.support.small_model import ROOT
from tests.support.tiny_models import TinyFolders

FLOAT32 = NumberBytes(blocks=4, texts=4, vae=4)
SHARDED = "parallel.shard_weights=true"
PER_BRANCH = ("cache.decide=per_branch", "cache.threshold=1.3", "cache.warmup_ratio=0.2")
DICACHE = ("cache.threshold=1.0", "cache.warmup_ratio=0.2")
TEACACHE = (
    "cache.method=teacache",
    "cache.gate.polynomial=[1.0,0.0]",
    "cache.gate.signal=modulated_input",
    "cache.threshold=0.5",
    "cache.warmup_ratio=0.2",
)
PLAIN = ("cache.method=none",)
TILES = ("model.vae_tiling=true",)
SHORT = ("sampling.steps=2",)
LARGE = (*SHORT, "sampling.frames=5", "sampling.height=416", "sampling.width=288")


@dataclass(frozen=True)
class Case:
    model: str  # name in the catalog
    overrides: tuple[str, ...]
    prompts: tuple[str, ...] = ("a red circle",)
    images: int | None = None  # if not as many as the model's row says


CASES = {
    "T2V": Case("Wan 2.1 T2V 14B", DICACHE, ("a red circle", "a blue square")),
    "T2V sharded, no cache": Case("Wan 2.1 T2V 14B", (*PLAIN, SHARDED), ("a red circle", "a blue square")),
    "T2V sharded, per branch": Case("Wan 2.1 T2V 14B", (*PER_BRANCH, SHARDED)),
    "I2V sharded": Case("Wan 2.1 I2V 14B 480P", (*DICACHE, "cache.last_blocks=1", SHARDED)),
    "FLF2V": Case("Wan 2.1 FLF2V 14B 720P", ("cache.method=taylorseer",)),
    "T2V A14B sharded": Case("Wan 2.2 T2V A14B", (*DICACHE, SHARDED)),
    "I2V A14B": Case("Wan 2.2 I2V A14B", ("cache.method=easycache", "cache.threshold=2.0", "cache.warmup_ratio=0.2")),
    "TI2V, text": Case("Wan 2.2 TI2V 5B", DICACHE, images=0),
    "TI2V, image, sharded": Case("Wan 2.2 TI2V 5B", (*PLAIN, SHARDED)),
    "HunyuanVideo": Case("HunyuanVideo", (*DICACHE, SHARDED), ("a red circle", "a blue square moving slowly left")),
    "HunyuanVideo I2V": Case("HunyuanVideo I2V", (*TEACACHE, SHARDED)),
    "HunyuanVideo I2V 33ch": Case("HunyuanVideo I2V 33ch", DICACHE),
    "HunyuanVideo 1.5": Case("HunyuanVideo 1.5 T2V 480p", DICACHE, ('a sign that says "go"',)),
    "HunyuanVideo 1.5 I2V": Case("HunyuanVideo 1.5 I2V 480p", (*DICACHE, SHARDED)),
    # several tiles, of several sizes and in several rounds; two prompts decode twice
    "T2V in tiles": Case("Wan 2.1 T2V 14B", (*PLAIN, *TILES, *LARGE), ("a red circle", "a blue square")),
    "I2V in tiles": Case("Wan 2.1 I2V 14B 480P", (*PLAIN, *TILES, *LARGE)),
    "TI2V in tiles": Case("Wan 2.2 TI2V 5B", (*PLAIN, *TILES, *LARGE)),
    "HunyuanVideo in chunks": Case("HunyuanVideo", (*PLAIN, "sampling.frames=29", *SHORT)),
    "HunyuanVideo whole": Case("HunyuanVideo", (*PLAIN, "model.vae_tiling=false", *LARGE)),
    "HunyuanVideo in tiles": Case("HunyuanVideo", (*PLAIN, *LARGE), ("a red circle", "a blue square moving left")),
    "HunyuanVideo 1.5 in tiles": Case("HunyuanVideo 1.5 T2V 480p", (*PLAIN, *LARGE)),
}
LAYOUTS = [
    Degrees(ulysses=2),
    Degrees(ring=2),
    Degrees(cfg=2),
    Degrees(ring=3),
    Degrees(ulysses=2, ring=2),
    Degrees(cfg=2, ring=2),
    Degrees(ulysses=4, ring=2),  # more than a video has rows of latents
]
MODELS = {model.name: model for model in CATALOG}
Asked = tuple[Config, GenerationRequest]


def make(ranks: Ranks, config: Config, request: GenerationRequest, video: Path) -> tuple[Any, ...] | None:
    """On the first rank the steps, the bytes and the lengths of texts that the report and the measurements have."""
    result = Engine(load_model(config, ranks), Progress()).generate(request, video, measure=True)
    if result.report is None or result.measurements is None:
        return None
    totals = result.report["totals"]
    return result.report["steps"], totals["collective_bytes_by_kind"], result.measurements.texts


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Asked]:
    folders = TinyFolders(tmp_path_factory.mktemp("models"))

    @functools.cache
    def ask(name: str) -> Asked:
        case = CASES[name]
        overrides = (*folders.overrides(case.model), "sampling.steps=8", *case.overrides)
        config = load_config(ROOT / "configs" / MODELS[case.model].recipe, list(overrides))
        images = folders.images(case.model, case.images)
        return config, make_request(case.prompts, "", 11, config.sampling, *images)

    return ask


QUICK = (
    "T2V",
    "I2V sharded",
    "T2V A14B sharded",
    "TI2V, image, sharded",
    "HunyuanVideo",
    "HunyuanVideo I2V",
    "HunyuanVideo 1.5 I2V",
    "I2V in tiles",
    "HunyuanVideo in chunks",
    "HunyuanVideo 1.5 in tiles",
)


def runs_on(name: str, degrees: Degrees) -> bool:
    """Whether the model has two branches for cfg 2: with the guidance of its recipe, since other ranks would wait."""
    model = MODELS[CASES[name].model]
    guidance = load_config(ROOT / "configs" / model.recipe).sampling.guidance
    return degrees.cfg == 1 or model.facts.num_branches(guidance) == 2


@pytest.mark.parametrize(
    ("degrees", "name"),
    all_slow_but(
        [(Degrees(cfg=2), "T2V sharded, per branch"), *((Degrees(ulysses=2), name) for name in QUICK)],
        [(degrees, name) for degrees in LAYOUTS for name in CASES if runs_on(name, degrees)],
    ),
    ids=str,
)
def test_the_bytes_of_a_run(degrees: Degrees, name: str, gang: Gang, asked: Any, tmp_path: Path) -> None:
    config, request = asked(name)
    rows, counted, texts = gang.run(make, degrees, config, request, tmp_path / "o.mp4", timeout_seconds=110)[0]
    facts = read_facts(config.model.path)
    ran = read_run(config, facts, request, rows, texts)
    assert ran is not None
    assert run_bytes(ran, degrees, FLOAT32) == counted
    if name.endswith(("in tiles", "in chunks")):
        assert counted["vae_tiles"] and "vae_halo" not in counted
    if config.cache.method != "none":
        assert {row["action"] for row in rows} > {"skip"}, "the cache skips some steps, and computes others"
        assert sum(agreed_sums(ran)) or config.cache.method == "taylorseer"
