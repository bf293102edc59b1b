"""One rank of a sweep, from loading to the files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.sweep.job import SweepJob

JSON_FILE, TABLE_FILE, PICTURE_FILE = "sweep.json", "sweep.md", "sweep.svg"


@dataclass(frozen=True)
class Written:
    """What a sweep has left."""

    folder: Path
    table: str


def run_sweep(job: SweepJob, progress: Progress, rank: int) -> Written | None:
    """Load, make what is missing, write the files. Collective: every rank calls it; the first one's result counts."""
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.execution.loaded import load_model
    from launch.sweep.bench import Bench
    from launch.sweep.picture import draw
    from launch.sweep.program import Sweep
    from launch.sweep.rows import to_document, to_markdown
    from parallel.ranks import join, leave, pick_device

    if rank == 0:
        for line in job.notes:
            progress.note(line)
    progress.stage("join")
    ranks = join(job.degrees, pick_device(job.config.runtime.device), job.config.runtime.load_timeout_seconds)
    progress.stage("load")
    bench = Bench(load_model(job.config, ranks), progress)
    if not bench.leads:
        bench.serve()
        leave()
        return None
    rows = Sweep(job, bench, progress).rows()
    bench.end()
    progress.stage("write")
    prompts = [request.prompts[0] for request in job.requests]
    job.folder.write(JSON_FILE, json.dumps(to_document(rows, job.made_with, prompts), indent=1) + "\n")
    table = to_markdown(rows, _heading(job))
    job.folder.write(TABLE_FILE, table)
    job.folder.write(PICTURE_FILE, draw(rows[1:]))
    progress.done()
    leave()
    return Written(job.folder.path, table)


def print_table(written: Written, stdout: IO[str]) -> None:
    """The table, and where the rest is."""
    print(written.table, file=stdout)
    print(f"written to {written.folder}: {JSON_FILE}, {TABLE_FILE}, {PICTURE_FILE}", file=stdout)


def _heading(job: SweepJob) -> str:
    sampling = job.config.sampling
    return (
        f"{len(job.requests)} prompts, {sampling.frames} frames of {sampling.width} × {sampling.height}, "
        f"{sampling.steps} {sampling.scheduler} steps, shift {sampling.shift:g}, guidance {sampling.guidance:g}, "
        f"{job.degrees.world_size} rank{'s' if job.degrees.world_size > 1 else ''}."
    )
