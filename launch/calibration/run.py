"""One rank of a calibration: from loading the model to writing the file."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.calibration.job import CalibrateJob


def run_calibration(job: CalibrateJob, progress: Progress, rank: int) -> Path | None:
    """Measure the prompts that have not been measured, place the steps and write the file; collective: every rank
    calls it.

    Returns:
        On the first rank, the file; None elsewhere.
    """
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.engine import Engine
    from launch.calibration.file import build, write
    from launch.calibration.folder import keep, kept, latents_of, trials_file
    from launch.calibration.refinement import refine_budgets
    from launch.calibration.trials import Trials
    from launch.calibration.velocities import measure_products
    from parallel.broadcast import object_from_first

    if rank == 0:
        for line in job.notes:
            progress.note(line)
    engine = Engine.load(job.config, progress)
    # ranks on other nodes may not see the first rank's folder, and all ranks must run the same prompts
    before = object_from_first(
        [kept(job, request) for request in job.requests] if rank == 0 else None, engine.model.ranks
    )
    measured = []
    for index, (request, known) in enumerate(zip(job.requests, before, strict=True)):
        if known is None:
            progress.video(index, len(job.requests))
            known, latents = measure_products(engine, request)
            if rank == 0:
                keep(job, request, known, latents)
        measured.append(known)
    if rank == 0:
        calibration = build(job, measured)
        if job.config.calibrate.refine:
            progress.stage("refine")
            references = [latents_of(job, request) for request in job.requests]
            trials = Trials(engine, job.requests, progress, references, trials_file(job, calibration))
            calibration = refine_budgets(job, calibration, measured, trials, progress)
            trials.end()
    elif job.config.calibrate.refine:
        Trials(engine, job.requests, progress).serve()
    progress.stage("write")
    if rank == 0:
        write(job, calibration)
        shutil.rmtree(job.partial, ignore_errors=True)
    progress.done()
    engine.close()
    return job.output if rank == 0 else None
