"""One rank of a bench: from loading the model to writing the results."""

from __future__ import annotations

from contextlib import nullcontext

from engine.progress import Progress
from launch.bench.job import BenchJob
from launch.bench.start import record_rank, start_rank
from launch.bench.writing import BenchResults, write_results


def run_bench(job: BenchJob, progress: Progress, rank: int) -> BenchResults | None:
    """Load the model, make the videos of all rounds and write the results; collective: every rank calls it.

    Returns:
        On the first rank, what was written; None elsewhere.
    """
    with job.folder.hold() if rank == 0 else nullcontext():
        engine, start = start_rank(job.config, job.notes, progress, rank)
        from engine.execution.tracing import trace_file
        from launch.bench.assemble import assemble
        from launch.bench.rounds import Rounds
        from parallel.broadcast import objects_of_all_replicas

        model = engine.model
        rounds = Rounds(engine, job, progress)
        videos = [*rounds.warm_up(), *rounds.run()]
        if job.trace:
            rounds.trace()
        records = objects_of_all_replicas(record_rank(engine, start, videos), model.ranks)
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
