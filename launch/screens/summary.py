"""The summary of finished videos on stdout, and the timeline of their denoise steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.text import Text

from launch.screens.console import draws_unicode, make_console

_SECONDS = ("load", "encode", "denoise", "decode", "write", "total")


def print_summary(reports: Sequence[Mapping[str, Any]], stream: IO[str]) -> None:
    """Print where the videos are, which steps were computed and skipped, and how long it took.

    Args:
        reports: the run report of each video.
    """
    console = make_console(stream)
    unicode = draws_unicode(console)
    lines = summary_lines(reports[0], unicode) if len(reports) == 1 else list_lines(reports, unicode)
    for label, value in lines:
        console.print(Text.assemble((f"{label:<9}", "bold"), value))


def list_lines(reports: Sequence[Mapping[str, Any]], unicode: bool = True) -> list[tuple[str, str]]:
    """The summary of several videos, one line each, as (label, text) pairs."""
    times, dot = ("×", " · ") if unicode else ("x", ", ")
    lines = []
    for index, report in enumerate(reports):
        totals = report["totals"]
        parts = [
            report["output"]["path"],
            *(count_actions(name, row) for name, row in _timelines(report["steps"])),
            f"{totals['seconds']['total'] - totals['seconds']['load']:.1f} s",
        ]
        lines.append((f"video {index}", dot.join(parts)))
    fraction = sum(report["totals"]["block_fraction"] for report in reports) / len(reports)
    lines.append(("speed-up", f"{1 / fraction:.2f}{times} over no cache, as executed blocks say"))
    return lines


def summary_lines(report: Mapping[str, Any], unicode: bool = True) -> list[tuple[str, str]]:
    """The summary as (label, text) pairs."""
    totals, request = report["totals"], report["request"]
    sampling = request.get("sampling", request)
    times, dot = ("×", " · ") if unicode else ("x", ", ")
    lines = []
    for path in _paths(report["output"]):
        seconds = sampling["frames"] / sampling["fps"]
        size = f"{sampling['width']}{times}{sampling['height']}, {sampling['frames']} frames, {seconds:.1f} s"
        lines.append(("video", f"{path} ({size})"))
    for name, row in _timelines(report["steps"]):
        lines.append((name, f"{draw_timeline(row, unicode)} {count_actions('steps', row)}"))
    parts = [f"{name} {totals['seconds'][name]:.1f}" for name in _SECONDS if name in totals["seconds"]]
    lines.append(("seconds", dot.join(parts)))
    fraction = totals["block_fraction"]
    speedup = f"{1 / fraction:.2f}{times}" if fraction else "-"
    lines.append(("speed-up", f"{speedup} over no cache, as executed blocks say"))
    return lines


def _paths(output: Mapping[str, Any]) -> list[str]:
    videos = output.get("videos") or [output]  # one for each prompt
    return [video["path"] for video in videos if video["path"]]


def _timelines(steps: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The actions of each sample and guidance branch; one row with the name "steps" where all are the same."""
    rows: dict[tuple[int, str], list[str]] = {}
    for step in steps:
        rows.setdefault((step.get("sample", 0), step["branch"]), []).append(step["action"])
    if all(row == next(iter(rows.values())) for row in rows.values()):
        return [("steps", row) for row in list(rows.values())[:1]]
    several = len({sample for sample, _ in rows}) > 1
    return [(f"{sample} {branch}" if several else branch, row) for (sample, branch), row in rows.items()]


def count_actions(name: str, row: Sequence[str]) -> str:
    """How many steps were computed and skipped, with the name in front unless that is "steps".

    Args:
        row: the action of each step.
    """
    skipped, unknown = row.count("skip"), row.count("unknown")
    counted = f"{len(row) - skipped - unknown} computed, {skipped} skipped" + f", {unknown} unknown" * bool(unknown)
    return counted if name == "steps" else f"{name} {counted}"


def draw_timeline(row: Sequence[str], unicode: bool = True) -> str:
    """One character for each action of ``row``."""
    computed, skipped = ("■", "·") if unicode else ("#", ".")
    return "".join({"skip": skipped, "unknown": "?"}.get(action, computed) for action in row)
