"""One rank of a bench: from loading the model to writing the results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from engine.progress import Progress
from launch.bench.job import BenchJob
from launch.bench.reading import read_document
from launch.bench.start import import_engine, record_rank, start_rank
from launch.bench.turns.other import OtherBuild
from launch.bench.writing import BenchResults, write_results

if TYPE_CHECKING:
    from engine.engine import Engine
    from launch.bench.document import BenchDocument
    from launch.bench.records import VideoRecord
    from launch.bench.start import Start

_OTHER = "other"


def run_bench(job: BenchJob, progress: Progress, rank: int) -> BenchResults | None:
    """Load the model, make the videos of all rounds and write the results; collective: every rank calls it.

    Returns:
        On the first rank, what was written; None elsewhere.
    """
    with ExitStack() as closing:
        if rank == 0:
            closing.enter_context(job.folder.hold())
        import_seconds = import_engine()
        other = None
        if rank == 0 and job.other is not None:
            progress.stage("start of the other build")
            other = closing.enter_context(_start_other(job))
        engine, start = start_rank(job.config, job.notes, progress, rank, import_seconds)
        from engine.execution.tracing import trace_file
        from launch.bench.rounds import Rounds
        from launch.bench.turns.relay import Relay
        from launch.bench.turns.taking import OtherTurns

        turns = None
        if job.other is not None:
            turns = OtherTurns(other, Relay(engine.model.ranks, job.config.runtime, progress))
            progress.stage("load of the other build")
            turns.let("load")
        rounds = Rounds(engine, job, progress, turns)
        videos = [*rounds.warm_up(), *rounds.run()]
        if job.trace:
            rounds.trace()
        against = None
        if turns is not None:
            progress.stage("results of the other build")
            turns.let("write")
            against = read_document(job.folder.scratch(_OTHER)) if rank == 0 else None
        document = gather(job, engine, start, videos, against)
        results = None
        if document is not None:
            progress.stage("write")
            traces = [trace_file(job.folder.path, each.rank).name for each in document.ranks] if job.trace else []
            results = write_results(job.folder, document, traces)
        progress.done()
        engine.close()
    return results


def gather(
    job: BenchJob, engine: Engine, start: Start, videos: Sequence[VideoRecord], against: BenchDocument | None = None
) -> BenchDocument | None:
    """What all ranks have measured; collective over the job.

    Args:
        videos: that this rank had a part in. against: of another build, on the first rank.

    Returns:
        On the first rank; None elsewhere.
    """
    from launch.bench.assemble import assemble
    from parallel.broadcast import objects_of_all_replicas

    model = engine.model
    records = objects_of_all_replicas(record_rank(engine, start, videos), model.ranks)
    if model.ranks.rank != 0:
        return None
    frames = {each.name: each.config.sampling.frames - model.facts.dropped_frames for each in job.variants}
    made_with = dict(job.made_with) | (_of_other(job, against) if against is not None else {})
    return assemble(records, model.ranks.degrees, frames, made_with, against.measured if against else None)


def _start_other(job: BenchJob) -> OtherBuild:
    """Its prompts come from a file of ours: those that were given may be a pipe, and it may have others by itself."""
    assert job.other is not None
    prompts, output = job.folder.scratch("prompts.txt"), job.folder.scratch(_OTHER)
    prompts.write_text("".join(f"{request.prompts[0]}\n" for request in job.variants[0].requests), encoding="utf-8")
    arguments = [*job.other.arguments, f"--prompts={prompts}", f"--output={output}"]
    return OtherBuild(job.other.build, arguments, job.folder.scratch("other.log"))


def _of_other(job: BenchJob, document: BenchDocument) -> dict[str, Any]:
    """What it has measured with, beside where it is."""
    builds = job.made_with["builds"]
    versions = document.made_with.get("versions")
    return {
        "against": document.made_with.get("config"),
        "builds": {**builds, "against": {**builds["against"], "versions": versions}},
    }
