"""A method that is named on the command line comes with its own settings, not with those of the file's method."""

from pathlib import Path

import pytest

from dicache.config import CacheConfig
from dicache.pairs import PAIRS
from engine.config_file import load_config
from tests.support.small_model import ROOT

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_with_every_other_method(recipe: Path) -> None:
    written = load_config(recipe).cache
    assert written.method == "dicache"
    for method in (*PAIRS, "none"):
        overrides = [f"cache.method={method}", *(["cache.calibration=/cal.json"] if method == "calibrated" else [])]
        kept: dict[str, object] = {"decide": written.decide, "calibration": written.calibration}
        if method in ("fbcache", "dbcache", "innovation"):
            kept["probe_depth"] = written.probe_depth
        if method == "innovation":
            kept["estimator"] = written.estimator
        if method == "calibrated":
            kept["calibration"] = Path("/cal.json")
        published = CacheConfig.model_validate({"method": method, **(kept if method != "none" else {})})
        assert load_config(recipe, overrides).cache == (written if method == written.method else published), method


FILE = """
model: {path: m}
sampling: {height: 32, width: 48, frames: 5}
cache: {method: hicache, gate: probe, threshold: 0.4, warmup_ratio: 0.5, probe_depth: 2,
        estimator: {order: 1, contraction: 0.7}}
"""


HERMITE = {"order": 1, "contraction": 0.7}
WRITTEN = {"method": "hicache", "gate": "probe", "threshold": 0.4, "warmup_ratio": 0.5, "probe_depth": 2}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), {**WRITTEN, "estimator": HERMITE}),
        (("method=hicache",), {**WRITTEN, "estimator": HERMITE}),
        (("gate=probe",), {**WRITTEN, "estimator": HERMITE}),
        (("gate={name: probe}",), {**WRITTEN, "estimator": HERMITE}),
        (
            ("gate.at_threshold=skip",),
            {**WRITTEN, "gate": {"name": "probe", "at_threshold": "skip"}, "estimator": HERMITE},
        ),
        (("estimator=taylor",), {**WRITTEN, "estimator": {"name": "taylor", "order": 1}}),
        (("estimator={name: taylor}",), {**WRITTEN, "estimator": "taylor"}),
        (("estimator.order=2",), {**WRITTEN, "estimator": {**HERMITE, "order": 2}}),
        (
            ("estimator=taylor", "estimator.clock=sigma"),
            {**WRITTEN, "estimator": {"name": "taylor", "order": 1, "clock": "sigma"}},
        ),
        (("method=fbcache",), {"method": "fbcache", "probe_depth": 2}),
        (("method=abcache",), {"method": "abcache"}),
        (("method=none",), {"method": "none"}),
        (("method=auto",), {"method": "auto", "probe_depth": 2}),
        (
            ("method=fbcache", "threshold=0.3", "estimator=ridge"),
            {"method": "fbcache", "threshold": 0.3, "estimator": "ridge", "probe_depth": 2},
        ),
        (("threshold=0.3", "method=fbcache"), {"method": "fbcache", "threshold": 0.3, "probe_depth": 2}),
        (("gate=easycache",), {"method": "hicache", "gate": "easycache", "estimator": HERMITE}),
        (("gate=",), {"method": "hicache", "estimator": HERMITE}),
        (("gate=", "gate.interval=3"), {"method": "hicache", "gate": {"interval": 3}, "estimator": HERMITE}),
        (("gate=interval", "gate.interval=3"), {"method": "hicache", "gate": {"interval": 3}, "estimator": HERMITE}),
        (("gate.name=easycache",), {"method": "hicache", "gate": "easycache", "estimator": HERMITE}),
        (
            ("gate.interval=3", "gate.name=interval"),
            {"method": "hicache", "gate": {"interval": 3}, "estimator": HERMITE},
        ),
        (("gate.interval=3", "gate=interval"), {"method": "hicache", "gate": {"interval": 3}, "estimator": HERMITE}),
        (("gate={name: interval, interval: 3}",), {"method": "hicache", "gate": {"interval": 3}, "estimator": HERMITE}),
        (("quality=high", "gate="), {"method": "hicache", "quality": "high", "estimator": HERMITE}),
    ],
)
def test_what_stays(tmp_path: Path, overrides: tuple[str, ...], expected: dict[str, object]) -> None:
    (tmp_path / "run.yaml").write_text(FILE)
    cache = load_config(tmp_path / "run.yaml", [f"cache.{override}" for override in overrides]).cache
    assert cache == CacheConfig.model_validate(expected)


def test_a_whole_section_stands_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(FILE)
    cache = load_config(
        tmp_path / "run.yaml", ["cache={method: hicache, threshold: 0.1}", "cache.method=fbcache"]
    ).cache
    assert cache == CacheConfig(method="fbcache", threshold=0.1)
