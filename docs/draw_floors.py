"""The picture of the code's floors, docs/floors.svg: packages by name, with the first line of their docstrings.

    python docs/draw_floors.py docs/floors.svg

Rooms are drawn in the order of import-linter's contracts in pyproject.toml: one imports those after it only. A package
that is new, moved or gone changes the picture; a test compares the two.
"""

import ast
import sys
import textwrap
import tomllib
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
FLOORS = (("launch",), ("engine",), ("dicache", "parallel"))
COLOURS = {"launch": "#dbe9f6", "engine": "#e3f1e1", "dicache": "#fdebd3", "parallel": "#f4e1ec"}
OLD_SPELLINGS = ("generate", "resume")
_WIDTH, _ROW, _HEAD, _GAP, _ROOMS_IN_A_ROW = 12.0, 0.78, 0.55, 0.3, 4


def purpose(package: Path) -> str:
    """The first line of a package's docstring."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].rstrip(".")


def rooms(floor: str) -> list[Path]:
    """The packages of a floor, but for old spellings of commands; those that import others first."""
    found = [path.parent for path in (ROOT / floor).glob("*/__init__.py") if path.parent.name not in OLD_SPELLINGS]
    order = _order(floor)
    return sorted(found, key=lambda path: (order.index(path.name) if path.name in order else 0, path.name))


def _order(floor: str) -> list[str]:
    """The names on a floor, as its contract of layers lists them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next((c["layers"] for c in contracts if c["type"] == "layers" and c.get("containers") == [floor]), [])
    return [name.strip() for layer in layers for name in layer.split("|")]


def draw(output: Path) -> None:
    """Write the picture; what it shows depends on nothing but the packages."""
    heights = [max(_height(floor, _columns(row)) for floor in row) for row in FLOORS]
    total = sum(heights) + _GAP * (len(FLOORS) - 1)
    figure = Figure(figsize=(_WIDTH, total + 0.2))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(0, total)
    axes.axis("off")
    top = total
    for row, height in zip(FLOORS, heights, strict=True):
        width = (_WIDTH - _GAP * (len(row) - 1)) / len(row)
        for number, floor in enumerate(row):
            _draw_floor(axes, floor, number * (width + _GAP), top, width, height, _columns(row))
        if row is not FLOORS[-1]:
            middle, low = _WIDTH / 2, top - height - _GAP
            axes.annotate("", (middle, low), (middle, low + _GAP), arrowprops={"arrowstyle": "->", "color": "#555555"})
            axes.text(middle + 0.1, low + _GAP / 2, "imports", fontsize=8, color="#555555", va="center")
        top -= height + _GAP
    with rc_context({"svg.hashsalt": "lockstep", "svg.fonttype": "none"}):
        figure.savefig(output, metadata={"Date": None})


def _columns(row: tuple[str, ...]) -> int:
    return _ROOMS_IN_A_ROW // len(row)


def _height(floor: str, columns: int) -> float:
    return _HEAD + _ROW * max(1, -(-len(rooms(floor)) // columns)) + 0.1


def _draw_floor(axes: Axes, floor: str, left: float, top: float, width: float, height: float, columns: int) -> None:
    _box(axes, left, top - height, width, height, COLOURS[floor])
    axes.text(left + 0.15, top - 0.3, f"{floor}/", fontsize=13, weight="bold", va="center")
    room_for_text = int((width - 1.4) * 11)
    said = textwrap.fill(purpose(ROOT / floor), room_for_text)
    axes.text(left + 1.3, top - 0.3, said, fontsize=9, va="center", linespacing=1.05)
    inner = width / columns
    for number, room in enumerate(rooms(floor)):
        x = left + number % columns * inner + 0.1
        y = top - _HEAD - (number // columns + 1) * _ROW + 0.06
        _box(axes, x, y, inner - 0.2, _ROW - 0.12, "white")
        axes.text(x + 0.1, y + _ROW - 0.3, room.name, fontsize=10, weight="bold", va="center")
        axes.text(x + 0.1, y + 0.23, textwrap.fill(purpose(room), 46), fontsize=7, va="center", linespacing=1.05)
    if not rooms(floor):  # a flat floor: its files
        files = ", ".join(sorted(path.stem for path in (ROOT / floor).glob("*.py") if path.stem != "__init__"))
        lines = textwrap.fill(files, 78)
        axes.text(left + 0.15, top - _HEAD - 0.1, lines, fontsize=8, va="top", linespacing=1.5, family="monospace")


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="#999999", lw=0.7))


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
