"""The results of a sweep: one row for each setting, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from launch.sweep.curves import Setting
from launch.sweep.folder import Run

SCHEMA = 1
"""Version of ``sweep.json``."""


@dataclass(frozen=True)
class Row:
    """One setting, with means over all prompts and the worst prompt. Units as of :class:`launch.sweep.folder.Run`."""

    setting: Setting
    target: float | None
    """The share of skipped steps for which the setting was searched, if one was."""
    runs: Sequence[Run]
    """In the order of the prompts."""
    steps_skipped: float
    blocks_computed: float
    denoise_seconds: float
    cache_bytes: int
    psnr: float
    worst_psnr: float
    ssim: float
    worst_ssim: float

    @classmethod
    def of(cls, setting: Setting, target: float | None, runs: Sequence[Run]) -> Row:
        """The row of a setting from its runs, which are in the order of the prompts."""
        return cls(
            setting,
            target,
            tuple(runs),
            steps_skipped=mean(run.steps_skipped for run in runs),
            blocks_computed=mean(run.blocks_computed for run in runs),
            denoise_seconds=mean(run.denoise_seconds for run in runs),
            cache_bytes=max(run.cache_bytes for run in runs),
            psnr=mean(run.psnr for run in runs),
            worst_psnr=min(run.psnr for run in runs),
            ssim=mean(run.ssim for run in runs),
            worst_ssim=min(run.ssim for run in runs),
        )

    @property
    def summary(self) -> str:
        """One line for the progress."""
        return (
            f"{self.steps_skipped:.0%} of steps skipped, {self.blocks_computed:.0%} of blocks computed, "
            f"PSNR {self.psnr:.1f} dB (worst prompt {self.worst_psnr:.1f})"
        )


def to_document(rows: Sequence[Row], made_with: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, Any]:
    """The content of ``sweep.json``.

    Args:
        rows: the first is the uncached run's.
        made_with: as in the sweep's folder.
    """
    return {
        "schema": SCHEMA,
        "made_with": made_with,
        "prompts": list(prompts),
        "settings": [
            {
                "curve": row.setting.curve,
                "label": row.setting.label,
                "looked_for_steps_skipped": row.target,
                "cache": row.setting.cache.model_dump(mode="json"),
                **{name: getattr(row, name) for name in _FIGURES},
                "prompts": [asdict(run) for run in row.runs],
            }
            for row in rows
        ],
    }


_FIGURES = (
    "steps_skipped",
    "blocks_computed",
    "denoise_seconds",
    "cache_bytes",
    "psnr",
    "worst_psnr",
    "ssim",
    "worst_ssim",
)


def to_markdown(rows: Sequence[Row], heading: str) -> str:
    """A table of all settings, and a table of PSNR by share of skipped steps where shares were given.

    Args:
        rows: the first is the uncached run's.
    """
    uncached, *others = rows
    lines = [heading, "", "| method | setting | steps skipped | blocks computed | denoise time with / without cache "]
    lines[-1] += "| PSNR mean (worst), dB | SSIM mean (worst) | cache, MiB a rank |"
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in others:
        lines.append(
            f"| {row.setting.curve} | {row.setting.label} | {row.steps_skipped:.1%} | {row.blocks_computed:.1%} "
            f"| {row.denoise_seconds / uncached.denoise_seconds:.2f} | {row.psnr:.1f} ({row.worst_psnr:.1f}) "
            f"| {row.ssim:.4f} ({row.worst_ssim:.4f}) | {row.cache_bytes / 2**20:.2f} |"
        )
    lines.append("")
    lines.append(
        f"Without a cache: {uncached.denoise_seconds:.2f} s of denoising a prompt. Means are over "
        f"{len(uncached.runs)} prompts."
    )
    if targets := sorted({row.target for row in others if row.target is not None}):
        lines += ["", *_by_share(others, targets)]
    return "\n".join(lines) + "\n"


def _by_share(rows: Sequence[Row], targets: Sequence[float]) -> list[str]:
    lines = ["| PSNR mean (worst), dB, at steps skipped | " + " | ".join(f"{target:.0%}" for target in targets) + " |"]
    lines.append("|---|" + "---|" * len(targets))
    for curve in dict.fromkeys(row.setting.curve for row in rows):
        found = {row.target: row for row in rows if row.setting.curve == curve}
        cells = [_cell(found.get(target), target) for target in targets]
        lines.append(f"| {curve} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: Row | None, target: float) -> str:
    if row is None:
        return "–"
    away = "" if abs(row.steps_skipped - target) < 0.015 else f" at {row.steps_skipped:.0%}"
    return f"{row.psnr:.1f} ({row.worst_psnr:.1f}){away}"
