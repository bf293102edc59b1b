"""One rank of a sweep: from loading the model to writing the results."""

from __future__ import annotations

import json

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.screens.measurements import TableResults
from launch.sweep.job import SweepJob

JSON_FILE, TABLE_FILE, PICTURE_FILE = "sweep.json", "sweep.md", "sweep.svg"


def run_sweep(job: SweepJob, progress: Progress, rank: int) -> TableResults | None:
    """Load the model, make the videos that are missing and write the results; collective: every rank calls it.

    Returns:
        On the first rank, what was written; None elsewhere.
    """
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.engine import Engine
    from launch.ranks.lead import Lead
    from launch.sweep.picture import draw
    from launch.sweep.rows import to_document, to_markdown
    from launch.sweep.sweep import Sweep
    from launch.sweep.video import make_video

    if rank == 0:
        for line in job.notes:
            progress.note(line)
    engine = Engine.load(job.config, progress)
    lead = Lead(engine, make_video, progress)
    if not lead.leads:
        lead.serve()
        engine.close()
        return None
    rows = Sweep(job, lead, progress).rows()
    lead.end()
    progress.stage("write")
    prompts = [request.prompts[0] for request in job.requests]
    job.folder.write(JSON_FILE, json.dumps(to_document(rows, job.made_with, prompts), indent=1) + "\n")
    table = to_markdown(rows, _heading(job))
    job.folder.write(TABLE_FILE, table)
    job.folder.write(PICTURE_FILE, draw(rows[1:]))
    progress.done()
    engine.close()
    return TableResults((JSON_FILE, TABLE_FILE, PICTURE_FILE), table)


def _heading(job: SweepJob) -> str:
    sampling, ranks = job.config.sampling, job.config.parallel.degrees.world_size
    return (
        f"{len(job.requests)} prompts, {sampling.frames} frames of {sampling.width} × {sampling.height}, "
        f"{sampling.steps} {sampling.scheduler} steps, shift {sampling.shift:g}, guidance {sampling.guidance:g}, "
        f"{ranks} rank{'s' if ranks > 1 else ''}."
    )
