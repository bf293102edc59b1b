"""The parts of a sweep that run nothing: what to compare, shares, figures, tables and the picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from dicache.config import CacheConfig
from engine.errors import InvalidInput
from launch.sweep.curves import METHODS, Curve, make_cache, read_curves
from launch.sweep.folder import Run, SweepFolder
from launch.sweep.metrics import psnr, ssim
from launch.sweep.picture import draw
from launch.sweep.rows import Row, to_document, to_markdown
from launch.sweep.share import find_value, known_share

BASE = CacheConfig.model_validate({"method": "dicache", "threshold": 0.1, "decide": "per_branch", "probe_depth": 2})


def test_a_name_stands_for_the_published_settings_and_the_configurations_common_keys() -> None:
    curves = read_curves(None, BASE.model_copy(update={"decide": "together"}))
    assert [curve.name for curve in curves] == [name for name in METHODS if name != "calibrated"], "it needs a file"
    assert "none" not in METHODS
    dicache, easycache = curves[0], next(curve for curve in curves if curve.name == "easycache")
    assert dicache.default_value == 0.2, "not the configuration's 0.1, which is of another method's scale"
    assert dicache.ladder()[0].cache.probe_depth == 2
    assert [setting.cache.threshold for setting in easycache.ladder()] == [0.025, 0.05, 0.1, 0.2]
    assert [setting.cache.warmup_steps for setting in easycache.ladder()] == [10] * 4
    assert [s.cache.gate.interval for s in next(c for c in curves if c.name == "hicache").ladder()] == [2, 3, 4, 6]


def test_a_list_of_sections(tmp_path: Path) -> None:
    file = tmp_path / "methods.yaml"
    file.write_text(
        "- {method: dicache, estimator: ridge, threshold: [0.1, 0.3]}\n"
        "- {name: every third, gate: {name: interval, interval: 3}}\n"
        "- {method: interval, gate: {compute_steps: [0, 4]}}\n"
        "- {method: taylorseer, gate: {interval: [3, 4]}}\n"
        "- {method: hicache, interval: [3, 5]}\n"
    )
    said: list[str] = []
    ridge, third, listed, series, old = read_curves(str(file), BASE, note=said.append)
    assert ridge.name == "dicache × ridge" and [s.cache.threshold for s in ridge.ladder()] == [0.1, 0.3]
    assert [s.label for s in ridge.ladder()] == ["threshold 0.1", "threshold 0.3"]
    assert third.name == "every third" and [s.cache.gate.interval for s in third.ladder()] == [3]
    assert [s.cache.gate.compute_steps for s in listed.ladder()] == [(0, 4)]
    assert [(s.label, s.cache.gate.interval) for s in series.ladder()] == [("interval 3", 3), ("interval 4", 4)]
    assert [s.cache.gate.interval for s in old.ladder()] == [3, 5]
    assert said == ["--methods, cache.interval is now cache.gate.interval"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("- {method: magic}", ["magic"]),
        ("- {method: dicache, thresold: 0.1}", ["thresold"]),
        ("- {method: none}", ["none"]),
        ("- {method: taylorseer, threshold: [1, 2]}", ["threshold", "interval"]),
        ("- {method: dicache, threshold: [-1]}", ["threshold", "-1"]),
        ("- method: dicache\n- method: dicache", ["dicache twice"]),
        ("method: dicache", ["no list"]),
        ("- dicache", ["'dicache'"]),
        ("- [", ["is not valid YAML"]),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "methods.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_curves(str(file), BASE)
    message = str(refused.value)
    assert "\n" not in message and message.startswith("--methods") and all(word in message for word in words)


def test_a_name_that_is_mistyped() -> None:
    with pytest.raises(InvalidInput, match=r"'dicash'.*dicache"):
        read_curves("fbcache,dicash", BASE)


def test_bisection_finds_each_share_and_measures_no_threshold_twice() -> None:
    asked: list[float] = []

    def share_at(threshold: float) -> float:  # of 50 steps, at most 80%
        asked.append(threshold)
        return min(0.8, math.floor(50 * threshold / (0.003 + threshold)) / 50)

    known: dict[float, float] = {}
    for target in (0.5, 0.66, 0.75):
        value = find_value(target, share_at, start=0.2, known=known)
        assert value is not None and abs(share_at(value) - target) <= 0.011
        asked.pop()
    assert len(asked) == len(set(asked)) == len(known) <= 20
    assert known[find_value(0.65, share_at, start=0.2, known=known) or 0] in (0.64, 0.66)
    assert len(known) <= 21, "half a step away is near enough"
    assert find_value(0.95, share_at, start=0.2, known=known) is None, "beyond what the method can skip"


@pytest.mark.parametrize(
    "keys, share",
    [
        (
            {"method": "interval", "gate": {"interval": 4}, "warmup_ratio": 0.2},
            1 - (10 + 10) / 50,
        ),  # 12 of 49..9 by 4, 10 early
        ({"method": "magcache", "gate": {"ratios": [1.0]}, "max_consecutive_skips": 3, "warmup_ratio": 0.2}, 0.6),
        ({"method": "dicache"}, None),
        ({"method": "none"}, 0.0),
    ],
)
def test_the_share_of_methods_that_look_at_no_data(keys: dict, share: float | None) -> None:
    assert known_share(CacheConfig.model_validate(keys), 50, 2, ()) == (None if share is None else pytest.approx(share))


def test_psnr_and_ssim_by_their_definitions() -> None:
    generator = np.random.default_rng(0)
    expected = generator.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    noisy = np.clip(expected + generator.integers(-9, 10, expected.shape), 0, 255).astype(np.uint8)
    error = np.mean((expected.astype(float) - noisy) ** 2)
    a, b = torch.from_numpy(noisy), torch.from_numpy(expected)
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / error))
    assert psnr(b, b) == 100.0 and ssim(b, b) == pytest.approx(1.0)
    assert ssim(a, b) == pytest.approx(np.mean([_ssim(x, y) for x, y in zip(noisy, expected, strict=True)]), rel=1e-6)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 with a 7 x 7 window of equal weights and unbiased variances, where the window fits."""
    values = []
    for y in range(a.shape[0] - 6):
        for x in range(a.shape[1] - 6):
            for channel in range(3):
                p, q = (image[y : y + 7, x : x + 7, channel].astype(float).ravel() for image in (a, b))
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                covariance = np.cov(p, q)
                values.append(
                    (2 * p.mean() * q.mean() + c1)
                    * (2 * covariance[0, 1] + c2)
                    / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))
                )
    return float(np.mean(values))


def run(psnr: float, skipped: float = 0.5, seconds: float = 1.0) -> Run:
    return Run(skipped, 1 - skipped, seconds, 2**20, psnr, psnr / 100)


def rows() -> list[Row]:
    points: Sequence[tuple[str, float, float | None, list[Run]]] = [
        ("dicache", 0.1, 0.5, [run(50), run(40)]),
        ("dicache", 0.2, 0.6, [run(42, 0.7), run(30, 0.5)]),
        ("a < b", 0.3, 0.5, [run(48, 0.54), run(44, 0.54)]),
    ]
    uncached = Row.of(
        Curve("none", {"method": "none"}, None, None).at(None), None, [run(100, 0.0, 4.0), run(100, 0.0, 2.0)]
    )
    found = [Row.of(Curve(n, {}, "threshold", None).at(v), target, runs) for n, v, target, runs in points]
    return [uncached, *found]


def test_means_worst_prompts_and_the_table_by_share() -> None:
    text = to_markdown(rows(), "Heading.")
    assert "| dicache | threshold 0.1 | 50.0% | 50.0% | 0.33 | 45.0 (40.0) | 0.4500 (0.4000) | 1.00 |" in text
    assert "| dicache | 45.0 (40.0) | 36.0 (30.0) |" in text
    assert "| a < b | 46.0 (44.0) at 54% | – |" in text
    document = to_document(rows(), {"model": "m"}, ["p", "q"])
    assert [s["worst_psnr"] for s in document["settings"]] == [100, 40, 30, 44]
    assert [len(s["prompts"]) for s in document["settings"]] == [2] * 4


def test_the_picture_has_a_line_for_each_method_and_a_dot_for_each_setting() -> None:
    space = "{http://www.w3.org/2000/svg}"
    picture = draw(rows()[1:])
    assert picture == draw(rows()[1:]), "no date, no random ids"
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{space}svg"
    lines = {
        group.attrib["id"]: [(float(dot.attrib["x"]), float(dot.attrib["y"])) for dot in group.iter(f"{space}use")]
        for group in root.iter(f"{space}g")
        if group.attrib.get("id", "").startswith("method-")
    }
    assert {name: len(dots) for name, dots in lines.items()} == {"method-dicache": 2, "method-a < b": 1}
    (fast, slow), (other,) = lines["method-dicache"], lines["method-a < b"]
    assert fast[0] < slow[0] and fast[1] > slow[1], "fewer blocks to the left, fewer decibels below"
    assert other[1] < slow[1] < fast[1], "46 dB above 45 above 36"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"dicache", "a < b", "blocks computed", "40%", "50%"} <= set(texts)


def test_a_name_is_no_formula_and_one_dot_is_a_picture() -> None:
    curve = Curve("_$x^2$ & <y>", {}, "threshold", None)
    root = ElementTree.fromstring(draw([Row.of(curve.at(0.1), None, [run(45.0)])]))
    texts = [(element.text or "").strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "_$x^2$ & <y>" in texts and "45" in texts and "50" in texts
    ElementTree.fromstring(draw([]))


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.refuse_if_other({"request": {"steps": 50}})
    folder.begin({"request": {"steps": 50}})
    folder.refuse_if_other({"request": {"steps": 50}})
    with pytest.raises(InvalidInput, match=r"--output is .* request.steps was 50 and is 30"):
        folder.refuse_if_other({"request": {"steps": 30}})


def test_settings_of_a_method_do_not_leak_from_another() -> None:
    assert make_cache("x", {"method": "easycache"}).threshold == 0.05
    with pytest.raises(InvalidInput, match=r"--methods, x: cache\.threshold is -1"):
        make_cache("x", {"threshold": -1})
