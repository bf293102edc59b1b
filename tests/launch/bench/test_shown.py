"""Results as Markdown and as pictures."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from launch.bench.document import BenchDocument
from launch.bench.pictures import _left_out, _slowest, draw, draw_scaling, draw_stages, draw_steps
from launch.bench.tables import bytes_text, seconds, table, to_markdown
from tests.support.bench_documents import Machine, document, whole_document

SVG = "{http://www.w3.org/2000/svg}"


def small() -> BenchDocument:
    return document(Machine(np.random.default_rng(0)).measured(4, skips=False))


def texts(content: bytes) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(content).iter(f"{SVG}text")]


def test_all_figures_are_in_the_tables() -> None:
    results = whole_document(12, 4)
    page = to_markdown(results)
    for part in ("Stages", "Steps", "Gain of the cache", "Ranks", "Collectives", "FLOPs", "Start-up", "Scaling"):
        assert f"## {part}" in page
    assert "**Rank 3 on node0 is late**: it came last in 80% of steps." in page
    assert f"{results.videos_per_hour:.4g}" in page and "117.7 MiB" in page and "50.0%" in page
    assert "| cache off |" in page and "| against |" in page and "31.5 dB" in page
    for lines in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in lines.splitlines()}) == 1, "all rows of a table have its columns"


def test_what_was_not_measured_is_left_out() -> None:
    page = to_markdown(small())
    assert "nan" not in page.lower() and "None" not in page
    for part in ("Gain", "Scaling", "is late", "Skew", "skipped |"):
        assert part not in page


def test_cells_cannot_break_a_table() -> None:
    assert list(table(("a",), [("x|y\nz",)]))[2] == "| x\\|y z |"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 s"), (5e-6, "5 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (123456, "123456 s")]
)
def test_seconds_have_the_unit_that_suits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_bytes_have_the_unit_that_suits() -> None:
    assert [bytes_text(1), bytes_text(1536), bytes_text(2**45)] == ["1 bytes", "1.5 KiB", "32 TiB"]


def test_pictures_are_written_together(tmp_path: Path) -> None:
    names = draw(whole_document(4, 2), tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert {"stages.svg", "stages.png", "steps.svg", "scaling.svg"} <= set(names)
    assert sorted(draw(small(), tmp_path / "small")) == ["stages.png", "stages.svg", "steps.png", "steps.svg"]


def test_bars_of_stages_name_every_rank() -> None:
    drawn = draw_stages(whole_document(4, 9))["svg"]
    assert {"as configured: rank 0", "rank 8", "cache off: rank 0", "encode", "denoise"} <= set(texts(drawn))
    assert drawn == draw_stages(whole_document(4, 9))["svg"], "the same results give the same file"


def test_of_very_many_ranks_the_slowest_are_drawn() -> None:
    results = document(Machine(np.random.default_rng(0)).measured(4, 70))
    assert len(_slowest(results.ranks)) == 64 and _slowest(results.ranks)[0].rank == 0
    assert _left_out(results) == " (the 64 slowest of 70 ranks)" and _left_out(small()) == ""


@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_each_step_is_a_bar(steps: int) -> None:
    drawn = draw_steps(document(Machine(np.random.default_rng(0)).measured(steps)))["svg"]
    bars = [each.get("id", "") for each in ElementTree.fromstring(drawn).iter()]
    skipped = [n for n in range(2, steps) if n % 3 == 0]
    assert bars.count("step-skip") == len(skipped)
    computed = bars.count("step-compute") + bars.count("step-warmup")
    assert computed == steps - len(skipped) if steps < 1000 else computed == len(skipped) + 1, "neighbours are one bar"
    assert any(f"{len(skipped)} of {steps} skipped" in text for text in texts(drawn))


def test_the_curve_of_scaling_names_both() -> None:
    found = texts(draw_scaling(whole_document(4, 16))["svg"])
    assert {"ideal", "cache on", "cache off", "ranks", "efficiency", "16"} <= set(found)
