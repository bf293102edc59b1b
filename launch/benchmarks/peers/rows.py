"""The results of all methods as rows, as JSON, as tables and as curves of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

from launch.benchmarks.peers.entries import LIBRARIES
from launch.benchmarks.peers.turns import Outcome, Run
from launch.sweep.metrics import IDENTICAL_PSNR
from launch.sweep.picture import Curve

SCHEMA = 1
"""Version of ``peers.json``."""


@dataclass(frozen=True)
class Row:
    """A setting of a method, over all prompts and rounds."""

    library: str
    name: str
    setting: str
    blocks: float
    """Mean share of the blocks that ran."""
    attention: float
    """The same of their self-attention."""
    seconds: float
    """Median of the denoise seconds."""
    ratio: float
    """Median of the denoise seconds over the plain pipeline's in the same round."""
    psnr: float
    worst_psnr: float
    ssim: float
    worst_ssim: float

    @property
    def is_uncached(self) -> bool:
        """Whether every video was the uncached one."""
        return self.worst_psnr == IDENTICAL_PSNR


def make_row(library: str, name: str, setting: str, runs: Sequence[Run]) -> Row:
    """The row of a setting from its runs."""
    return Row(
        library,
        name,
        setting,
        blocks=mean(run.work.blocks for run in runs),
        attention=mean(run.work.attention for run in runs),
        seconds=median(run.seconds for run in runs),
        ratio=median(run.ratio for run in runs),
        psnr=mean(run.psnr for run in runs),
        worst_psnr=min(run.psnr for run in runs),
        ssim=mean(run.ssim for run in runs),
        worst_ssim=min(run.ssim for run in runs),
    )


def make_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of all methods that ran, library by library."""
    return [
        make_row(library, outcome.entry.name, outcome.entry.label(setting), runs)
        for library in LIBRARIES
        for outcome in outcomes
        if outcome.entry.library == library and not outcome.failed
        for setting, runs in zip(outcome.entry.settings, outcome.runs, strict=True)
    ]


def curves(rows: Sequence[Row]) -> list[Curve]:
    """A curve for each method, PSNR over the ratio of denoise times; one line style for each library. Settings whose
    videos are all equal to the uncached ones have no PSNR, and are left out."""
    shown = [row for row in rows if not row.is_uncached]
    names = dict.fromkeys((row.library, row.name) for row in shown)
    return [
        Curve(
            f"{library} {name}",
            [(row.ratio, row.psnr) for row in shown if (row.library, row.name) == (library, name)],
            LIBRARIES.index(library),
        )
        for library, name in names
    ]


def to_document(
    outcomes: Sequence[Outcome], rows: Sequence[Row], made_with: Mapping[str, Any], prompts: Sequence[str]
) -> dict[str, Any]:
    """The content of ``peers.json``."""
    return {
        "schema": SCHEMA,
        "made_with": made_with,
        "prompts": list(prompts),
        "rows": [asdict(row) for row in rows],
        "methods": [
            {
                **outcome.entry.model_dump(mode="json"),
                "failed": outcome.failed,
                "differs_after_a_video_that_was": outcome.keeps,
                "runs": [[asdict(run) for run in runs] for runs in outcome.runs],
            }
            for outcome in outcomes
        ],
    }


def to_markdown(outcomes: Sequence[Outcome], rows: Sequence[Row], heading: str) -> str:
    """The heading, a table of all settings, and a table of what else is to be known of each method."""
    lines = [heading, "", "| library | method | setting | blocks computed | denoise time / plain "]
    lines[-1] += "| seconds | PSNR mean (worst), dB | SSIM mean (worst) |"
    lines.append("|---|---|---|---|---|---|---|---|")
    lines += [_line(row) for row in rows]
    ordered = [outcome for library in LIBRARIES for outcome in outcomes if outcome.entry.library == library]
    for outcome in ordered:
        if outcome.failed:
            lines.append(
                f"| {outcome.entry.library} | {outcome.entry.name} | fails: {outcome.failed} | – | – | – | – | – |"
            )
    lines += ["", "| library | method | on several ranks | after a finished video | after one broken off | remarks |"]
    lines.append("|---|---|---|---|---|---|")
    for outcome in ordered:
        after = [_kept(outcome, when) for when in ("finished", "broken off")]
        cells = [outcome.entry.library, outcome.entry.name, outcome.entry.several_ranks, *after, outcome.entry.note]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    blocks = f"{row.blocks:.0%}"
    if abs(row.blocks - row.attention) > 0.005:
        blocks += f", {row.attention:.0%} of attention"
    quality = f"{row.psnr:.1f} ({row.worst_psnr:.1f}) | {row.ssim:.4f} ({row.worst_ssim:.4f})"
    if row.is_uncached:
        quality = "the same video | 1"
    return (
        f"| {row.library} | {row.name} | {row.setting} | {blocks} | {row.ratio:.2f} | {row.seconds:.2f} | {quality} |"
    )


def _kept(outcome: Outcome, when: str) -> str:
    if outcome.failed:
        return "–"
    return outcome.keeps.get(when) or "as a fresh one"
