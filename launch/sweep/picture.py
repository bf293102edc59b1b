"""Pictures as SVG: quality over a share of the work, one line for each method."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.screens.drawing import SVG, SVG_METADATA, as_text
from launch.sweep.rows import Row

_INCHES = (9.0, 5.6)
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
_STYLES = (("-", "o"), ("--", "s"), (":", "^"))  # line and marker; the next ones once all colours have been used
_TEXT = "#333333"


@dataclass(frozen=True)
class Curve:
    """The line of one method in a picture. ``style`` is a number for those that should look alike; None takes the next
    line style once all colours have been used."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int | None = None


def draw(rows: Sequence[Row]) -> str:
    """The text of an SVG file: mean PSNR in dB over the share of blocks computed, with a dot for each setting.

    The same rows give the same text. The line of a method has the id "method-" and its name.
    """
    names = dict.fromkeys(row.setting.curve for row in rows)
    curves = [Curve(name, [(r.blocks_computed, r.psnr) for r in rows if r.setting.curve == name]) for name in names]
    return draw_curves(curves, "blocks computed")


def draw_curves(curves: Sequence[Curve], x_label: str) -> str:
    """The text of an SVG file: PSNR in dB over a share, which has the unit 1, with a line for each curve.

    The same curves give the same text. Each line has the id "method-" and its name.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    written = io.StringIO()
    with mpl.rc_context(SVG):
        figure = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, curve in enumerate(curves):
            style = number // len(_COLOURS) if curve.style is None else curve.style
            line, marker = _STYLES[style % len(_STYLES)]
            axes.plot(
                *zip(*sorted(curve.points), strict=True),
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=line,
                marker=marker,
                markersize=5,
                linewidth=1.8,
                clip_on=False,  # dots on the edge stay whole
                label=as_text(curve.name),
                gid=f"method-{curve.name}",
            )
        axes.set_xlim(*_whole_units([x for curve in curves for x, _ in curve.points], 0.1))
        axes.set_ylim(*_whole_units([y for curve in curves for _, y in curve.points], 5.0))
        axes.set_xlabel(x_label, color=_TEXT)
        axes.set_ylabel("PSNR against the uncached video, dB", color=_TEXT)
        axes.xaxis.set_major_locator(MultipleLocator(0.1))
        axes.yaxis.set_major_locator(MultipleLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.tick_params(colors=_TEXT, length=0, pad=8)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        if curves:
            figure.legend(loc="outside right upper", frameon=False, labelcolor=_TEXT)
        figure.savefig(written, format="svg", metadata=SVG_METADATA)
    return written.getvalue()


def _whole_units(values: Sequence[float], unit: float) -> tuple[float, float]:
    """The smallest range of one or more whole units that holds all values."""
    low = math.floor(min(values, default=0.0) / unit + 1e-9)
    high = math.ceil(max(values, default=0.0) / unit - 1e-9)
    return low * unit, max(high, low + 1) * unit
