"""The pictures of a bench: time by stage and rank, the steps of each video, and scaling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.storage.files import StagedFiles
from launch.bench.document import BenchDocument, RankRow, Sample
from launch.bench.tables import variants
from launch.screens.drawing import BLUE, GREEN, INK, ORANGE, RED, VIOLET, as_text, figure, plain

_STAGES = {"encode": VIOLET, "denoise": BLUE, "decode": ORANGE, "write": GREEN}
_ACTIONS = {"warmup": "#7fb2de", "compute": BLUE, "skip": ORANGE}
_WORDS = {"warmup": "computed (warm-up)", "compute": "computed", "skip": "skipped"}
_MOST_VIDEOS = 8
_MOST_RANKS = 64
_MOST_STEPS_APART = 120


def draw(document: BenchDocument, folder: Path) -> list[str]:
    """Write all pictures that the document has something for, as SVG and PNG, whole and together.

    Returns:
        The names of the files in ``folder``.

    Raises:
        OSError: the disk is full, or fails.
    """
    pictures = {"stages": draw_stages(document), "steps": draw_steps(document)}
    if len(document.scale) > 1:
        pictures["scaling"] = draw_scaling(document)
    names = []
    with StagedFiles() as files:
        for name, kinds in pictures.items():
            for kind, content in kinds.items():
                names.append(f"{name}.{kind}")
                files.stage(folder / names[-1]).write_bytes(content)
    return names


def draw_stages(document: BenchDocument) -> dict[str, bytes]:
    """Median seconds of a video by stage, as stacked bars: one for each rank, of each variant."""
    bars: list[tuple[str, RankRow]] = []
    for name, measured in variants(document).items():
        shown = _slowest(measured.ranks)
        bars += [
            (f"rank {row.rank}" if number else f"{name}: rank {row.rank}", row) for number, row in enumerate(shown)
        ]
    with figure(9.0, 1.6 + 0.3 * len(bars)) as (drawn, written):
        axes = drawn.add_subplot()
        left = np.zeros(len(bars))
        gap = _gaps(bars)
        for stage, colour in _STAGES.items():
            widths = np.array([row.stages.get(stage, 0.0) for _, row in bars])
            axes.barh(gap, widths, left=left, height=0.72, color=colour, label=stage, gid=f"stage-{stage}")
            left += widths
        rest = np.array([max(0.0, row.stages.get("total", 0.0)) for _, row in bars])
        for place, total in zip(gap, np.maximum(left, rest), strict=True):
            axes.annotate(f"{total:.3g} s", (total, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(gap, [as_text(name) for name, _ in bars])
        axes.invert_yaxis()
        axes.set_ylim(gap[-1] + 0.6, -0.6)
        axes.set_xlim(0, max(float(max(left.max(), rest.max())) * 1.1, 1e-9))
        axes.set_xlabel("seconds a video, median" + _left_out(document))
        plain(axes, "x")
        drawn.legend(loc="outside upper center", ncols=len(_STAGES), frameon=False)
    return written


def _slowest(ranks: Sequence[RankRow]) -> list[RankRow]:
    """All ranks, or of very many those whose videos take longest, in their order."""
    kept = sorted(ranks, key=lambda row: -row.stages.get("total", 0.0))[:_MOST_RANKS]
    return sorted(kept, key=lambda row: row.rank)


def _left_out(document: BenchDocument) -> str:
    count = len(document.ranks)
    return f" (the {_MOST_RANKS} slowest of {count} ranks)" if count > _MOST_RANKS else ""


def _gaps(bars: Sequence[tuple[str, RankRow]]) -> Any:
    """The places of bars, with room before each variant's first."""
    places: list[float] = []
    place = -1.0
    for name, _ in bars:
        place += 1.4 if ":" in name and places else 1.0
        places.append(place)
    return np.array(places)


def draw_steps(document: BenchDocument) -> dict[str, bytes]:
    """For each counted video of the first round, its steps one after the other: as wide as they took, and coloured by
    what was decided."""
    first = min(sample.round for sample in document.samples)
    samples = [sample for sample in document.samples if sample.round == first][:_MOST_VIDEOS]
    rows = [(f"prompt {sample.prompt}", sample) for sample in samples]
    if document.cache_off is not None:
        keys = {(sample.prompt, sample.seed) for sample in samples[:1]}
        off = [s for s in document.cache_off.samples if s.round == first and (s.prompt, s.seed) in keys]
        rows += [(f"prompt {sample.prompt}, cache off", sample) for sample in off]
    longest = max(sum(sample.step_seconds) for _, sample in rows) or 1.0
    with figure(11.0, 1.7 + 0.62 * len(rows)) as (drawn, written):
        axes = drawn.add_subplot()
        for place, (_, sample) in enumerate(rows):
            _draw_video(axes, place, sample, longest)
        axes.set_yticks(range(len(rows)), [f"{name}\n{_counts(sample)}" for name, sample in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(0, longest * 1.01)
        axes.set_xlabel("seconds of denoising, in the first round")
        plain(axes, "x")
        handles = [_patch(colour, _WORDS[action]) for action, colour in _ACTIONS.items() if _has(rows, action)]
        drawn.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return written


def _draw_video(axes: Any, place: int, sample: Sample, longest: float) -> None:
    ends = np.cumsum(sample.step_seconds)
    actions = np.array(sample.step_actions[: len(ends)])
    starts = np.concatenate([[0.0], ends[:-1]])
    gap = 0.0015 * longest
    if len(ends) > _MOST_STEPS_APART:
        # steps narrower than a gap are drawn without gaps, equal ones as one bar: seams would be as wide as they
        begins = np.flatnonzero(np.concatenate([[True], actions[1:] != actions[:-1]]))
        starts, actions, gap = starts[begins], actions[begins], 0.0
        ends = np.concatenate([starts[1:], ends[-1:]])
        axes.barh([place], [ends[-1]], height=0.7, color=_ACTIONS["compute"], linewidth=0.0, gid="under-steps")
    widths = np.maximum(ends - starts - gap, 0.3 * (ends - starts))
    for action, colour in _ACTIONS.items():
        chosen = np.flatnonzero(actions == action)
        axes.barh(
            [place] * len(chosen),
            widths[chosen],
            left=starts[chosen],
            height=0.7,
            color=colour,
            linewidth=0.0,
            gid=f"step-{action}",
            snap=False,  # else steps narrower than a pixel vanish, or grow to one
        )


def _counts(sample: Sample) -> str:
    return f"{sample.step_actions.count('skip')} of {len(sample.step_actions)} skipped"


def _has(rows: Sequence[tuple[str, Sample]], action: str) -> bool:
    return any(action in sample.step_actions for _, sample in rows)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def draw_scaling(document: BenchDocument) -> dict[str, bytes]:
    """Speed-up and efficiency over the number of ranks, with the cache and without, and the ideal."""
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator, PercentFormatter

    sizes = [row.world_size for row in document.scale]
    has_cache = document.cache_gain is not None
    on = "cache on" if has_cache else "measured"
    with figure(10.0, 4.4) as (drawn, written):
        left, right = drawn.subplots(1, 2)
        left.plot(sizes, [size / sizes[0] for size in sizes], color=INK, linestyle=":", label="ideal", gid="ideal")
        right.axhline(1.0, color=INK, linestyle=":")
        for axes, key in ((left, "speedup"), (right, "efficiency")):
            for label, suffix, colour, marker in ((on, "on", BLUE, "o"), ("cache off", "off", RED, "s")):
                points = [(row.world_size, getattr(row, f"{key}_{suffix}")) for row in document.scale]
                known = [point for point in points if point[1] is not None]
                if known:
                    axes.plot(*zip(*known, strict=True), color=colour, marker=marker, markersize=5, label=label)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(_apart(sizes)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.set_xlabel("ranks")
            plain(axes, "both")
        left.set_yscale("log", base=2)
        left.yaxis.set_minor_locator(NullLocator())
        left.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        left.set_ylabel(f"speed-up over {sizes[0]} rank{'s' if sizes[0] > 1 else ''}")
        right.set_ylabel("efficiency")
        right.set_ylim(0, max(1.08, *(row.efficiency_on for row in document.scale)))
        right.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        handles, labels = left.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return written


def _apart(sizes: Sequence[int]) -> list[int]:
    """Of the sizes those whose labels do not overlap on a logarithmic axis."""
    shown: list[int] = []
    for size in sizes:
        if not shown or size >= 1.15 * shown[-1]:
            shown.append(size)
    return shown
