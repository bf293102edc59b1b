"""A person is told what was chosen for the cache, and why."""

from io import StringIO
from pathlib import Path

import yaml

from launch.jobs.config import JobConfig, load_job_config
from launch.jobs.options import Options
from launch.jobs.preparation import prepare
from launch.screens.configuration import print_config
from parallel.place import Place
from tests.support.small_model import CONFIG, ROOT

REASONS = [
    "cache: method innovation: no cache.calibration is named; this was measured to be the best here of those that need "
    "none",
    "cache: quality draft: threshold 0.014, with which about 75% of 50 steps were skipped on this model",
]
LEFT_OPEN = ("cache.method=auto", "cache.quality=draft")
UNCALIBRATED = (*LEFT_OPEN, "cache.calibration=null")


def printed(recipe: Path, *overrides: str) -> tuple[list[str], JobConfig]:
    """Comments, and the configuration that the rest is."""
    stream = StringIO()
    print_config(load_job_config(recipe, overrides), stream)
    comments = [line.removeprefix("# ") for line in stream.getvalue().splitlines() if line.startswith("#")]
    return comments, JobConfig.model_validate(yaml.safe_load(stream.getvalue()), strict=False)


def test_a_run_says_it_and_goes_by_it(tmp_path: Path) -> None:
    overrides = ("runtime.device=cpu", *UNCALIBRATED)
    job = prepare(Options(str(CONFIG), ["a"], output=tmp_path / "out.mp4", overrides=overrides), Place(1))
    assert job.notes == REASONS
    assert (job.config.cache.method, job.config.cache.threshold, job.config.cache.quality) == (
        "innovation",
        0.014,
        None,
    )


def test_the_printed_configuration_has_it() -> None:
    comments, config = printed(CONFIG, *UNCALIBRATED)
    assert comments == REASONS
    assert (config.cache.method, config.cache.threshold) == ("innovation", 0.014)
    comments, config = printed(CONFIG, *LEFT_OPEN)
    assert comments[0] == "cache: method calibrated: cache.calibration holds for this model and sampling"
    assert (config.cache.method, config.cache.gate.steps_skipped) == ("calibrated", 0.75)
    comments, config = printed(CONFIG, *LEFT_OPEN, "sampling.shift=5")
    assert "cache.calibration does not hold here, for sampling.shift was 3.0 and is 5.0; " in comments[0]
    assert config.cache.method == "innovation"
    assert printed(CONFIG) == ([], load_job_config(CONFIG)), "nothing was left open"


def test_a_published_model_need_not_be_here_and_another_stays_open(tmp_path: Path) -> None:
    comments, config = printed(ROOT / "configs" / "hunyuan-video.yaml", "cache.quality=high")
    assert comments == ["cache: quality high: threshold 0.05, 0.5 times the published one"]
    assert (config.cache.threshold, config.cache.gate.at_threshold) == (0.05, "skip")
    comments, config = printed(CONFIG, *LEFT_OPEN, f"model.path={tmp_path / 'nothing'}")
    assert comments == ["cache: chosen when the model is here"]
    assert (config.cache.method, config.cache.quality) == ("auto", "draft")
