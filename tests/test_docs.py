"""The documentation is what the repository is: pictures, indexes and links."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.draw_floors import draw
from launch.bench.page import bench_page
from tests.support.small_model import ROOT

PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/**/*.md")))
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def texts(picture: Path) -> list[str]:
    """What is written in an SVG, line by line; places and sizes depend on the version of matplotlib."""
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_floors_are_those_of_the_code(tmp_path: Path) -> None:
    draw(tmp_path / "floors.svg")
    drawn = texts(tmp_path / "floors.svg")
    assert {"launch/", "engine/", "dicache/", "parallel/", "denoise", "queue"} <= set(drawn)
    assert texts(ROOT / "docs" / "floors.svg") == drawn, "run python docs/draw_floors.py docs/floors.svg"


def test_every_package_says_what_it_is_for() -> None:
    packages = [
        path for floor in ("launch", "engine", "dicache", "parallel") for path in ROOT.glob(f"{floor}/**/__init__.py")
    ]
    assert len(packages) > 20
    assert [path for path in packages if not path.read_text(encoding="utf-8").startswith('"""')] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [match[1] for match in LINK.finditer(page.read_text(encoding="utf-8")) if "://" not in match[1]]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_of_decisions_lists_every_page() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = {match[1] for match in LINK.finditer((folder / "README.md").read_text(encoding="utf-8"))}
    assert listed == {path.name for path in folder.glob("*.md")} - {"README.md"}


def test_the_page_of_the_bench_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    assert page == bench_page(), "run python -m launch.bench.page > docs/bench.md"
    assert "`videos_per_hour`" in page and "| `import` |" in page
