"""What all pictures have in common: SVG with text as text, and those of a bench readable on light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INK = "#6b7280"  # text and axes: 4.8 to 1 on white, 4.3 to 1 on black
GRID = "#9ca3af55"
BLUE, RED, GREEN, ORANGE, VIOLET = "#3b82c4", "#d1495b", "#2e9e62", "#e08e0b", "#8b6fc0"
SVG: Any = {
    "svg.fonttype": "none",  # text as text, so that it can be searched
    "svg.hashsalt": "lockstep",  # ids are random otherwise, and the same results would give another file
    "font.family": "sans-serif",
}
"""Settings of matplotlib for a picture that is the same text whenever it is drawn."""
SVG_METADATA: Any = {"Date": None, "Creator": None}
_STYLE: Any = {
    **SVG,
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "legend.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Any, dict[str, bytes]]]:
    """A matplotlib figure of that many inches, and a mapping that holds it as "svg" and "png" once the block ends.
    The background is transparent in the SVG, and white in the PNG, which is for programs that know no page colour."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written: dict[str, bytes] = {}
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn, written
        for kind in ("svg", "png"):
            file = io.BytesIO()
            metadata = SVG_METADATA if kind == "svg" else None
            drawn.savefig(file, format=kind, dpi=110, transparent=kind == "svg", metadata=metadata)
            written[kind] = file.getvalue()


def plain(axes: Any, grid: str) -> None:
    """Axes without a frame, with a grid along ``grid``: "x", "y" or "both"."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6)
    axes.grid(color=GRID, linewidth=0.8, axis=grid)
    axes.set_axisbelow(True)


def as_text(name: str) -> str:
    """A name in which matplotlib finds no formula, and that it does not leave out of a legend."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
