"""One rank of a bench: from loading the model to writing the results."""

from __future__ import annotations

import os
import socket
import time
from contextlib import nullcontext

import psutil

from engine.execution.imports import import_ahead
from engine.progress import Progress
from launch.bench.job import BenchJob
from launch.bench.records import RankRecord
from launch.bench.writing import BenchResults, write_results


def run_bench(job: BenchJob, progress: Progress, rank: int) -> BenchResults | None:
    """Load the model, make the videos of all rounds and write the results; collective: every rank calls it.

    Returns:
        On the first rank, what was written; None elsewhere.
    """
    with job.folder.hold() if rank == 0 else nullcontext():
        import_ahead("engine.engine")  # torch and diffusers, which takes seconds
        from engine.components.dtypes import transformer_dtype
        from engine.engine import Engine
        from engine.execution.peak import measure_peak_flops
        from engine.execution.tracing import trace_file
        from engine.generation.report import describe_device
        from launch.bench.assemble import assemble
        from launch.bench.rounds import Rounds
        from parallel.broadcast import objects_of_all_replicas

        import_seconds = time.time() - psutil.Process(os.getpid()).create_time()
        if rank == 0:
            for line in job.notes:
                progress.note(line)
        engine = Engine.load(job.config, progress)
        model = engine.model
        progress.stage("peak")
        objects_of_all_replicas(None, model.ranks)  # ranks of one machine measure together, as they compute together
        peak = measure_peak_flops(model.ranks.device, transformer_dtype(job.config, model.ranks.device))
        rounds = Rounds(engine, job, progress)
        videos = [*rounds.warm_up(), *rounds.run()]
        if job.trace:
            rounds.trace()
        own = RankRecord(
            rank=rank,
            replica=model.ranks.replica,
            host=socket.gethostname(),
            device=describe_device(model.ranks.device),
            import_seconds=import_seconds,
            load_seconds=model.load_seconds,
            first_step_seconds=videos[0].measured.steps[0].seconds if videos else 0.0,
            peak_flops=peak,
            videos=[video for video in videos if video.round >= 0],
        )
        records = objects_of_all_replicas(own, model.ranks)
        results = None
        if rank == 0:
            progress.stage("write")
            document = assemble(
                records,
                model.ranks.degrees,
                {variant.name: variant.config.sampling.frames - model.facts.dropped_frames for variant in job.variants},
                job.made_with,
            )
            traces = [trace_file(job.folder.path, each.rank).name for each in records] if job.trace else []
            results = write_results(job.folder, document, traces)
        progress.done()
        engine.close()
    return results
