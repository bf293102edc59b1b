"""A rank's part in the videos of a job: load, generate, leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.jobs.job import Job
from launch.process.pausing import PauseRequest, is_meant


def make_videos(job: Job, progress: Progress, rank: int) -> list[dict[str, Any]] | None:
    """Load the model and make the videos that are left. Collective: every rank calls it.

    SIGTERM pauses a job that keeps checkpoints, at its next step. Which videos are left is what rank 0 has found:
    another machine may see the files of a shared folder later.

    Returns:
        The run reports of all videos of the job, on rank 0.

    Raises:
        Paused: by SIGTERM.
    """
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.engine import Engine
    from parallel.meeting import Meeting

    for line in job.notes:
        progress.note(line)
    if (ranks := job.degrees.world_size) > 1:
        meeting = Meeting(rank, ranks, job.config.runtime.load_timeout_seconds)
        job = job.with_finished(meeting.first_decides("finished videos", sorted(job.finished)))
    if not job.tasks_left:
        return finish_made(job, progress.note) if rank == 0 else None
    with job.at_work(rank):
        engine = Engine.load(job.config, progress)
        with PauseRequest(job.grace_seconds, confirmed=is_meant) as request:
            made = engine.generate_all(job.tasks_left, request.control)
        engine.close()
        if made is None:
            return None
        job.clean_up()
        return job.all_reports(made)


def finish_made(job: Job, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """End a job all of whose videos an earlier run has made: no model is loaded, and no file written.

    Returns:
        The run reports of its videos.
    """
    note("all files are written already: there is nothing left to do")
    job.clean_up()
    return job.all_reports(())
