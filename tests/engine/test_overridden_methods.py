"""A method that is named on the command line comes with its own settings, not with those of the file's method."""

from pathlib import Path
from typing import get_args

import pytest

from dicache.config import CacheConfig, MethodName
from engine.config_file import load_config
from tests.support.small_model import ROOT

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
OF_THE_MODEL = ("probe_depth", "decide", "gamma_min", "gamma_max", "calibration")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_with_every_other_method(recipe: Path) -> None:
    written = load_config(recipe).cache
    kept = {key: getattr(written, key) for key in OF_THE_MODEL}
    for method in get_args(MethodName):
        extra = {"calibration": Path("/cal.json")} if method == "calibrated" else {}
        overrides = [f"cache.method={method}", *(f"cache.{key}={value}" for key, value in extra.items())]
        cache = load_config(recipe, overrides).cache
        published = CacheConfig.model_validate({"method": method, **kept, **extra})
        assert cache == (written if method == written.method else published), method


FILE = """
model: {path: m}
sampling: {height: 32, width: 48, frames: 5}
cache: {method: hicache, gate: probe, threshold: 0.4, order: 1, warmup_ratio: 0.5, contraction: 0.7, probe_depth: 2}
"""


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), {"method": "hicache", "gate": "probe", "threshold": 0.4, "order": 1, "warmup_ratio": 0.5}),
        (
            ("method=hicache",),
            {"method": "hicache", "gate": "probe", "threshold": 0.4, "order": 1, "warmup_ratio": 0.5},
        ),
        (("gate=probe",), {"method": "hicache", "gate": "probe", "threshold": 0.4, "order": 1, "warmup_ratio": 0.5}),
        (
            ("estimator=taylor",),
            {"estimator": "taylor", "gate": "probe", "method": "hicache", "threshold": 0.4, "order": 1}
            | {"warmup_ratio": 0.5},
        ),
        (("method=fbcache",), {"method": "fbcache"}),
        (
            ("method=fbcache", "threshold=0.3", "estimator=ridge"),
            {"method": "fbcache", "threshold": 0.3} | {"estimator": "ridge"},
        ),
        (("threshold=0.3", "method=fbcache"), {"method": "fbcache", "threshold": 0.3}),
        (("gate=easycache",), {"method": "hicache", "gate": "easycache", "order": 1}),
        (("gate=",), {"method": "hicache", "gate": None, "order": 1}),
        (("gate=", "interval=3"), {"method": "hicache", "interval": 3, "order": 1}),
    ],
)
def test_what_stays(tmp_path: Path, overrides: tuple[str, ...], expected: dict[str, object]) -> None:
    (tmp_path / "run.yaml").write_text(FILE)
    cache = load_config(tmp_path / "run.yaml", [f"cache.{override}" for override in overrides]).cache
    assert cache == CacheConfig.model_validate({"contraction": 0.7, "probe_depth": 2, **expected})


def test_a_whole_section_stands_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(FILE)
    cache = load_config(
        tmp_path / "run.yaml", ["cache={method: hicache, threshold: 0.1}", "cache.method=fbcache"]
    ).cache
    assert cache == CacheConfig(method="fbcache", threshold=0.1)
