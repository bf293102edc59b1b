"""Calibration and sweep run unchanged on checkpoints in other layouts than the small model's: large Wan, HunyuanVideo
and image-to-video."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checks.preflight import preflight
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG
from engine.models.published import published_names
from engine.progress import Progress
from engine.request import Outputs, Task, make_tasks
from launch.calibration.job import CalibrateOptions, prepare_calibration
from launch.calibration.run import run_calibration
from launch.jobs.config import load_job_config
from launch.sweep.job import SweepOptions, prepare_sweep
from launch.sweep.run import run_sweep
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.pictures import write_pictures
from tests.support.slow import all_slow_but
from tests.support.small_model import ROOT
from tests.support.tiny_models import TINY_MODELS

RECIPES = {model.name: str(ROOT / "configs" / model.recipe) for model in CATALOG}


@pytest.mark.parametrize(
    "name",
    # image-to-video shows what text-to-video does, and more
    all_slow_but(["HunyuanVideo", "Wan 2.1 I2V 14B 480P"], ["Wan 2.1 T2V 14B", "HunyuanVideo", "Wan 2.1 I2V 14B 480P"]),
)
def test_calibrate_then_compare(name: str, tmp_path: Path) -> None:
    tiny, recipe = TINY_MODELS[name], RECIPES[name]
    images = write_pictures(tmp_path)[: tiny.images]
    seen, unseen, output = tmp_path / "seen.txt", tmp_path / "unseen.txt", tmp_path / "cal.json"
    seen.write_text("a cat\na dog\n")
    unseen.write_text("a house\na tree\n")
    overrides = (*tiny.overrides(tiny.write(tmp_path / "model")), "sampling.steps=6")

    options = CalibrateOptions(recipe, seen, output, overrides, image=images[0] if images else None)
    assert run_calibration(prepare_calibration(options, Place(1)), Progress(), rank=0) == output
    calibrated = json.loads(output.read_text())
    assert calibrated["steps"] == 6 and len(calibrated["prompts"]) == 2
    assert all(budget["damage"] > 0 for budget in calibrated["budgets"])

    signals = {"modulated_input"} if name == "HunyuanVideo" else {"timestep_embedding", "timestep_modulation"}
    assert set(calibrated["polynomials"]) == signals
    assert {len(ratios) for ratios in calibrated["ratios"].values()} == {6}

    asked = ("cache.method=auto", f"cache.calibration={output}")
    config = load_job_config(recipe, [*overrides, *asked])
    (task,) = make_tasks(["a house"], "", [0], config.sampling, Outputs(), *images)
    config = preflight(config, [task], Place(1)).config
    model = load_model(config, Ranks())
    report = Engine(model, Progress()).generate(task.request).report
    assert report and report["request"]["cache"]["method"] == "calibrated"
    assert not published_names(model.facts, task.request), "else what is published would go first"
    for method in ("magcache", "teacache"):
        cached = load_job_config(recipe, [*overrides, asked[1], f"cache.method={method}", "cache.threshold=9"])
        cached = preflight(cached, [task], Place(1)).config
        report = Engine(replace(model, config=cached), Progress()).generate(task.request).report
        assert report and "skip" in {row["action"] for row in report["steps"]}, method
        sampling = cached.sampling.model_copy(update={"shift": 2.5})
        other = task.request.model_copy(update={"sampling": sampling})
        with pytest.raises(InvalidInput, match=r"does not hold for this run, for sampling\.shift was"):
            preflight(cached.model_copy(update={"sampling": sampling}), [Task(other, Outputs())], Place(1))
    if images:
        other, *_ = make_tasks(["a house"], "blurred", [0], config.sampling, Outputs(), *images)
        named = config.model_copy(update={"cache": config.cache.model_copy(update={"method": "calibrated"})})
        with pytest.raises(InvalidInput, match=r"request\.negative_prompt was '' and is 'blurred'"):
            preflight(named, [other], Place(1))

    sweep = SweepOptions(
        recipe,
        unseen,
        tmp_path / "sweep",
        methods="dicache,calibrated",
        image=images[0] if images else None,
        overrides=(*overrides, f"cache.calibration={output}"),
    )
    for method in ("calibrated", "magcache", "teacache"):
        with pytest.raises(InvalidInput, match=r"--prompts has 'a cat', which the calibration .* was made from"):
            prepare_sweep(replace(sweep, prompts_file=seen, methods=method), Place(1))
    written = run_sweep(prepare_sweep(sweep, Place(1)), Progress(), rank=0)
    assert written and "| calibrated | steps_skipped 0.5 | 50.0% | 50.0% |" in written.table
    settings = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["settings"]
    assert {setting["curve"] for setting in settings} == {"none", "dicache", "calibrated"}
    assert all(0 < setting["psnr"] < 100 for setting in settings if setting["curve"] == "calibrated")
