"""One rank of a calibration, from loading to the file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.calibration.job import CalibrateJob


def run_calibration(job: CalibrateJob, progress: Progress, rank: int) -> Path | None:
    """Measure what is missing, place the steps, write the file. Collective: every rank calls it."""
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.execution.loaded import load_model
    from launch.calibration.bettered import bettered
    from launch.calibration.file import build, write
    from launch.calibration.folder import folder_of, keep, kept, latents_of, trials_file
    from launch.calibration.trials import Trials
    from launch.calibration.velocities import measure_products
    from parallel.broadcast import object_from_first
    from parallel.ranks import join, leave, pick_device

    progress.stage("join")
    ranks = join(job.degrees, pick_device(job.config.runtime.device), job.config.runtime.load_timeout_seconds)
    progress.stage("load")
    model = load_model(job.config, ranks)
    # what the first rank finds, for on another node there may be nothing, and ranks must run the same prompts
    before = object_from_first([kept(job, request) for request in job.requests] if rank == 0 else None, ranks)
    measured = []
    for index, (request, known) in enumerate(zip(job.requests, before, strict=True)):
        if known is None:
            progress.video(index, len(job.requests))
            known, latents = measure_products(model, request, progress)
            if rank == 0:
                keep(job, request, known, latents)
        measured.append(known)
    if rank == 0:
        calibration = build(job, measured)
        if job.config.calibrate.refine:
            progress.stage("refine")
            references = [latents_of(job, request) for request in job.requests]
            trials = Trials(model, job.requests, progress, references, trials_file(job, calibration))
            calibration = bettered(job, calibration, measured, trials, progress)
            trials.end()
    elif job.config.calibrate.refine:
        Trials(model, job.requests, progress).serve()
    progress.stage("write")
    if rank == 0:
        write(job, calibration)
        shutil.rmtree(folder_of(job), ignore_errors=True)
    progress.done()
    leave()
    return job.output if rank == 0 else None


def print_calibration(path: Path, stdout: IO[str]) -> None:
    """Where the file is, and how to use it."""
    print(f"calibration  {path}", file=stdout)
    print(f"use it with  --set cache.method=calibrated --set cache.calibration={path}", file=stdout)
