"""One picture of a sweep: quality over the blocks that were computed, a line for each method, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from launch.sweep.rows import Row

_WIDTH, _HEIGHT = 900, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 250, 20, 50
_COLOURS = (
    "#12507b",
    "#d1495b",
    "#2e8b57",
    "#e08e0b",
    "#6a4c93",
    "#00798c",
    "#8d5524",
    "#555555",
    "#c2185b",
    "#7cb518",
)
_DASHES = ("", "6 4", "2 3")


def draw(rows: Sequence[Row]) -> str:
    """An SVG file's text: mean PSNR in dB over the share of blocks computed, each setting a dot."""
    curves = {name: [row for row in rows if row.setting.curve == name] for name in {r.setting.curve: 0 for r in rows}}
    blocks = [row.blocks_computed for row in rows] or [0.0, 1.0]
    decibels = [row.psnr for row in rows] or [0.0, 1.0]
    scale = _Scale(*_around(min(blocks), max(blocks), 0.1), *_around(min(decibels), max(decibels), 5.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_grid(scale),
    ]
    for number, (name, points) in enumerate(curves.items()):
        parts += _curve(scale, number, name, sorted(points, key=lambda row: row.blocks_computed))
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """From figures to places in the picture."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left, self.right, self.low, self.high = left, right, low, high

    def x(self, share: float) -> float:
        return _LEFT + (share - self.left) / (self.right - self.left) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, decibels: float) -> float:
        return _HEIGHT - _BOTTOM - (decibels - self.low) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)


def _around(low: float, high: float, unit: float) -> tuple[float, float]:
    """Whole units that hold both, and are not one."""
    start, end = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return start * unit, max(end, start + 1) * unit


def _grid(scale: _Scale) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tenth in range(round(scale.left * 10), round(scale.right * 10) + 1):
        x = scale.x(tenth / 10)
        yield f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#333333">{tenth * 10}%</text>'
    for decibels in range(round(scale.low), round(scale.high) + 1, 5):
        y = scale.y(decibels)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#333333">{decibels}</text>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle:.1f}" y="{_HEIGHT - 10}" text-anchor="middle" fill="#333333">blocks computed</text>'
    height = (_TOP + bottom) / 2
    yield (
        f'<text x="16" y="{height:.1f}" text-anchor="middle" fill="#333333" transform="rotate(-90 16 {height:.1f})">'
        "PSNR against the uncached video, dB</text>"
    )


def _curve(scale: _Scale, number: int, name: str, rows: Sequence[Row]) -> Iterator[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    places = [(scale.x(row.blocks_computed), scale.y(row.psnr)) for row in rows]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
    yield f'<polyline points="{line}" {style}/>'
    for row, (x, y) in zip(rows, places, strict=True):
        title = f"{name}, {row.setting.label}: {row.psnr:.1f} dB, {row.blocks_computed:.1%} of blocks"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(title)}</title></circle>'
    left, height = _WIDTH - _RIGHT + 16, _TOP + 10 + 20 * number
    yield f'<polyline points="{left},{height - 4} {left + 24},{height - 4}" {style}/>'
    yield f'<text x="{left + 32}" y="{height}" fill="#333333">{escape(name)}</text>'
