"""A rank's part in the videos of a job: load, generate, leave."""

from __future__ import annotations

from typing import Any

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.jobs.job import Job


def make_videos(job: Job, progress: Progress, rank: int) -> list[dict[str, Any]] | None:
    """Load the model and make the videos that are left. Collective: every rank calls it.

    Returns:
        The run reports of all videos of the job, on rank 0.
    """
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.engine import Engine

    for line in job.notes:
        progress.note(line)
    with job.at_work(rank):
        engine = Engine.load(job.config, progress)
        made = engine.generate_all(job.tasks_left)
        engine.close()
        if made is None:
            return None
        job.clean_up()
        return job.all_reports(made)
