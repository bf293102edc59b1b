"""What `lockstep bench` prints when it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.text import Text

from launch.bench.document import BenchDocument, Measured, Spread
from launch.bench.writing import BenchResults
from launch.process.printable import printable
from launch.screens.console import draws_unicode, make_console


def print_results(folder: Path, results: BenchResults, stream: IO[str]) -> None:
    """Print the figures that matter most, and where the files with all of them are."""
    console = make_console(stream)
    for label, text in summary_lines(results.document, draws_unicode(console)):
        console.print(Text.assemble((f"{label:<10}", "bold"), text))
    print(printable(f"written to {folder}: {', '.join(results.files)}"), file=stream)


def summary_lines(document: BenchDocument, unicode: bool = True) -> Iterator[tuple[str, str]]:
    """The summary as (label, text) pairs."""
    times, dot = ("×", " · ") if unicode else ("x", ", ")
    yield "videos", dot.join([_rate(document), _spread(document.seconds_per_video, "s a video")])
    if document.cache_off is not None:
        yield "cache off", dot.join([_rate(document.cache_off), _spread(document.cache_off.seconds_per_video, "s")])
    if document.against is not None:
        yield "against", dot.join([_rate(document.against), _spread(document.against.seconds_per_video, "s")])
    yield "stages", dot.join(f"{name} {spread.median:.2f} s" for name, spread in document.stages.items())
    steps = [("computed", document.steps_computed, document.steps.computed)]
    steps.append(("skipped", document.steps_skipped, document.steps.skipped))
    yield (
        "steps",
        dot.join(
            f"{count:.3g} {name}" + (f", {1000 * spread.median:.1f} ms each" if spread else "")
            for name, count, spread in steps
        ),
    )
    if (gain := document.cache_gain) is not None:
        parts = [f"{gain.speedup.median:.2f}{times} in denoising", f"{gain.end_to_end.median:.2f}{times} in all"]
        parts.append(f"ideal {gain.ideal:.2f}{times}")
        if gain.share_of_ideal is not None:
            parts.append(f"{gain.share_of_ideal:.0%} of what the skipped blocks would take")
        parts.append(f"PSNR {gain.psnr_db.median:.1f} dB" if gain.psnr_db else "the same frames")
        yield "gain", dot.join(parts)
    if (skew := document.skew) is not None:
        late = f"rank {skew.late_rank} is late" if skew.late_rank is not None else "no rank is late in most steps"
        yield "skew", f"{1000 * skew.seconds.median:.2f} ms a step{dot}{late} ({skew.late_share:.0%} of steps)"
    if (flops := document.flops) is not None:
        share = f"{dot}{flops.share_of_peak:.0%} of the peak" if flops.share_of_peak is not None else ""
        yield "FLOPs", f"{flops.per_video:.3g} a video{dot}{flops.denoise_per_second:.3g} a second{share}"
    start = document.startup_seconds
    yield (
        "start",
        dot.join([f"import {start.import_:.1f} s", f"load {start.load:.1f} s"])
        + (f"{dot}first step {start.first_step:.2f} s"),
    )


def _rate(measured: Measured) -> str:
    each = "" if measured.world_size == 1 else f" ({measured.videos_per_hour_per_rank:.4g} a rank)"
    return f"{measured.videos_per_hour:.4g} an hour{each}"


def _spread(spread: Spread, unit: str) -> str:
    return f"{spread.median:.3g} {unit} ({spread.p10:.3g} to {spread.p90:.3g})"
