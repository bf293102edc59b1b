"""What `lockstep plan` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import IO

from rich import box
from rich.table import Table
from rich.text import Text

from launch.planner.choice import describe
from launch.planner.predict import GROUPS, Prediction
from launch.planner.run import Planned
from launch.planner.scaling import WORTH, ScaleRow
from launch.screens.console import make_console

_WIDTH = 104
_OTHERS = 4


def print_plan(planned: Planned, stream: IO[str]) -> None:
    """Print the recommended layout, what it is expected to do, the next best, and the table over GPUs."""
    console = make_console(stream)
    document, best = planned.document, planned.choice.best

    def say(label: str, text: str) -> None:
        for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False):
            console.print(Text.assemble((f"{label:<11}", "bold"), line))
            label = ""

    video = document.video
    size = f"{video['frames']} x {video['height']} x {video['width']}, {video['steps']} steps"
    links = f"inside a node {planned.cluster.inside.name}, between nodes {planned.cluster.between.name}"
    say("predicted", f"{document.model}, {size}, on {planned.cluster} ({links})")
    for note in planned.notes:
        say("", note)
    say("layout", describe(best))
    say("why", document.why)
    say("use", _settings(best))
    say("seconds", f"{best.cache_on:.1f} a video with the cache, {best.cache_off:.1f} without; a step "
        f"{best.computed_step_seconds:.3f} computed, {best.skipped_step_seconds:.3f} skipped")  # fmt: skip
    say("skipped", f"{document.skip_share:.0%} of the steps: {document.assumptions['skip_share']}")
    say("throughput", f"{document.videos_per_hour:.1f} videos an hour with the cache")
    say("memory", f"{best.memory_bytes / 1e9:.1f} GB a GPU")
    say(
        "limits",
        ", ".join(f"{name} {seconds:.1f} s ({seconds / best.cache_on:.0%})" for name, seconds in best.limits().items()),
    )
    say("", _parts(best))
    say("start", f"about {document.start_seconds:.0f} s from the start of the processes to the first video")
    if document.cost_per_video is not None:
        say("cost", f"{document.cost_per_video:.4f} a video at the given price")
    configured = planned.configured
    if configured is not None and configured.plan != best.plan:
        lacks = "" if configured.fits else ", but does not fit"
        say("configured", f"{describe(configured)}, as the configuration has it{lacks}: {configured.cache_on:.1f} s "
            f"a video with the cache, {configured.cache_off:.1f} without")  # fmt: skip
    for label, other in zip(("next best", *[""] * _OTHERS), planned.choice.others[:_OTHERS], strict=False):
        say(label, f"{describe(other)}: {other.cache_on:.1f} s a video, {other.videos_per_hour:.1f} videos an hour")
    console.print()
    console.print(scaling_table(planned.rows))
    for cached, words in ((False, "without the cache"), (True, "with it")):
        limit = document.stops_paying["cache_on" if cached else "cache_off"]
        if limit is not None:
            say("", f"{words}, more than {limit} GPUs for one video have an efficiency under {WORTH:.0%}")


def scaling_table(rows: Sequence[ScaleRow]) -> Table:
    """One row for each number of GPUs."""
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in (
        "GPUs",
        "one video: layout",
        "s, cache off",
        "efficiency",
        "s, cache on",
        "efficiency",
        "many: videos/h",
    ):
        table.add_column(name, justify="left" if "layout" in name else "right", overflow="fold")
    for row in rows:
        most = f"{row.most.videos_per_hour:.1f}" if row.most else "-"
        if row.fastest is None or row.fastest_without_cache is None:
            table.add_row(str(row.gpus), "does not fit", "-", "-", "-", "-", most)
            continue
        table.add_row(
            str(row.gpus),
            describe(row.fastest),
            f"{row.fastest_without_cache.cache_off:.1f}",
            f"{row.efficiency_off:.0%}",
            f"{row.fastest.cache_on:.1f}",
            f"{row.efficiency_on:.0%}",
            most,
        )
    return table


def _settings(best: Prediction) -> str:
    """The layout as options of other commands."""
    degrees = vars(best.plan.degrees)
    shard = str(best.plan.shard_weights and best.plan.degrees.replica_size > 1).lower()
    keys = [*(f"parallel.{name}={degree}" for name, degree in degrees.items()), f"parallel.shard_weights={shard}"]
    return " ".join(f"--set {key}" for key in keys)


def _parts(best: Prediction) -> str:
    found = {name: best.parts_on[name] for names in GROUPS.values() for name in names}
    shown = sorted(((s, n) for n, s in found.items() if s >= 0.005 * best.cache_on), reverse=True)
    return "by part: " + ", ".join(f"{name.replace('_', ' ')} {seconds:.2f}" for seconds, name in shown)
