"""Every recipe loads, passes the check before loading, and makes latents on a reduced model of its layout."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from engine.checks.layout import lay_out
from engine.checks.model import check_size
from engine.checks.preflight import preflight
from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.progress import Progress
from engine.request import Outputs, make_tasks
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.pictures import write_pictures
from tests.support.small_model import ROOT
from tests.support.tiny_models import TINY_MODELS

Reduced = Callable[..., Config]


def name_of(model: PublishedModel) -> str:
    return model.name


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    """The configuration of a model's recipe with a reduced model in its place."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def write(name: str) -> Path:
        return TINY_MODELS[name].write(folder / name)

    def configure(model: PublishedModel, *overrides: str) -> Config:
        tiny = TINY_MODELS[model.name]
        return load_config(ROOT / "configs" / model.recipe, [*tiny.overrides(write(model.name)), *overrides])

    return configure


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_the_published_size_fits_the_published_model(model: PublishedModel) -> None:
    config = load_config(ROOT / "configs" / model.recipe)
    assert config.model.path.endswith(model.hub_id)
    check_size(config.sampling, model.facts)
    degrees = lay_out(config, config.sampling, model.facts, Place(8, local_ranks=8, nodes=1)).degrees
    assert degrees.world_size == 8 and model.facts.num_heads % degrees.ulysses == 0
    assert (config.sampling.low_noise_guidance is None) == (model.boundary_ratio is None)


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_a_recipe_runs(model: PublishedModel, reduced: Reduced, tmp_path: Path) -> None:
    config = reduced(model, "sampling.steps=3", "cache.warmup_ratio=0")
    images = write_pictures(tmp_path)[: TINY_MODELS[model.name].images]
    (task,) = make_tasks(["a cat"], "", [1], config.sampling, Outputs(), *images)
    config = preflight(config, [task], Place(1)).config
    result = Engine(load_model(config, Ranks()), Progress()).generate(task.request)
    assert result.latents.isfinite().all() and result.latents.std() > 0.1
    assert result.report and {row["step"] for row in result.report["steps"]} == {0, 1, 2}


# by recipe: height, width, frames, fps, steps, guidance of each expert, shift; then the cache's threshold, what is done
# at it, gamma_max. Written out once more from the sources that the recipes name, so that a slip of the hand shows.
PUBLISHED = {
    "wan2.1-t2v-1.3b.yaml": (480, 832, 81, 16, 50, (5.0,), 3.0, 0.2, "compute", 2.0),
    "wan2.1-t2v-14b.yaml": (720, 1280, 81, 16, 50, (5.0,), 5.0, 0.08, "compute", 2.0),
    "wan2.1-i2v-14b-480p.yaml": (480, 832, 81, 16, 40, (5.0,), 3.0, 0.08, "compute", 2.0),
    "wan2.1-i2v-14b-720p.yaml": (720, 1280, 81, 16, 40, (5.0,), 5.0, 0.08, "compute", 2.0),
    "wan2.1-flf2v-14b-720p.yaml": (720, 1280, 81, 16, 50, (5.5,), 16.0, 0.08, "compute", 2.0),
    "wan2.2-t2v-a14b.yaml": (720, 1280, 81, 16, 40, (4.0, 3.0), 12.0, 0.08, "compute", 2.0),
    "wan2.2-i2v-a14b.yaml": (720, 1280, 81, 16, 40, (3.5, 3.5), 5.0, 0.08, "compute", 2.0),
    "wan2.2-ti2v-5b.yaml": (704, 1280, 121, 24, 50, (5.0,), 5.0, 0.08, "compute", 2.0),
    "hunyuan-video.yaml": (720, 1280, 129, 24, 50, (6.0,), 7.0, 0.1, "skip", 1.5),
    "hunyuan-video-i2v.yaml": (720, 1280, 129, 24, 50, (6.0,), 7.0, 0.1, "skip", 1.5),
    "hunyuan-video-i2v-33ch.yaml": (720, 1280, 129, 24, 50, (1.0,), 7.0, 0.1, "skip", 1.5),
    "hunyuan-video15-t2v-480p.yaml": (480, 848, 121, 24, 50, (6.0,), 5.0, 0.1, "skip", 1.5),
    "hunyuan-video15-t2v-720p.yaml": (720, 1280, 121, 24, 50, (6.0,), 9.0, 0.1, "skip", 1.5),
    "hunyuan-video15-i2v-480p.yaml": (480, 848, 121, 24, 50, (6.0,), 5.0, 0.1, "skip", 1.5),
    "hunyuan-video15-i2v-720p.yaml": (720, 1280, 121, 24, 50, (6.0,), 7.0, 0.1, "skip", 1.5),
}


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_settings_are_the_published_ones(model: PublishedModel) -> None:
    config = load_config(ROOT / "configs" / model.recipe)
    sampling, cache = config.sampling, config.cache
    guidance = tuple(sampling.guidance_of(expert) for expert in range(len(model.facts.transformers)))
    size = sampling.height, sampling.width, sampling.frames, sampling.fps
    when = cache.threshold, cache.gate.at_threshold, cache.estimator.gamma_max
    assert (sampling.frames, sampling.height, sampling.width) == model.video
    assert (*size, sampling.steps, guidance, sampling.shift, *when) == PUBLISHED[model.recipe]
    assert (cache.method, cache.warmup_ratio, cache.probe_depth, cache.estimator.gamma_min) == ("dicache", 0.2, 1, 1.0)


def test_torch_is_not_needed_to_read_the_catalog() -> None:
    import subprocess
    import sys

    code = "import sys, engine.models.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
