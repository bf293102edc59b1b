"""One rank of the test: from loading the model to writing the results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engine.progress import Progress
from engine.storage.files import StagedFiles
from launch.bench.reading import JSON_FILE
from launch.bench.start import import_engine, record_rank, start_rank
from launch.mlperf.job import DOCUMENT, TABLE, MlperfJob
from launch.mlperf.loadgen import require_loadgen
from launch.screens.measurements import TableResults

if TYPE_CHECKING:
    from launch.bench.records import RankRecord


def run_mlperf(job: MlperfJob, progress: Progress, rank: int) -> TableResults | None:
    """Load the model, have LoadGen measure it with the cache off and on, and write the results; collective.

    Returns:
        On the first rank, what was written; None elsewhere.
    """
    if rank == 0:
        require_loadgen()  # on a cluster it is another machine than the one that has checked the work
    engine, start = start_rank(job.config, job.notes, progress, rank, import_engine())
    from launch.mlperf.bench import now, to_bench, variant_of
    from launch.mlperf.replica import Replica
    from launch.mlperf.results import to_document
    from launch.mlperf.session import Session
    from launch.mlperf.tables import to_markdown
    from launch.mlperf.vbench import score
    from launch.mlperf.video import Maker
    from launch.ranks.lead import Lead
    from parallel.broadcast import objects_of_all_replicas
    from parallel.shared_work import SharedWork

    started = now()
    maker = Maker(job.requests, job.caches, job.noise)
    lead = Lead(engine, maker, progress)

    def gather() -> list[RankRecord]:
        videos = [each.record(engine.model, variant_of(job, each.cache)) for each in maker.measured]
        records = objects_of_all_replicas(record_rank(engine, start, videos), engine.model.ranks)
        engine.close()
        return records

    if not lead.leads:
        lead.serve()
        gather()
        return None
    work = SharedWork(engine.model.ranks, "mlperf")
    replica = Replica(job, lead, work, progress)
    if rank != 0:
        replica.serve()
        job.remove_latents()
        work.finish(None)
        lead.end()
        gather()
        return None
    session = Session(job, replica, job.config.parallel.degrees.data, progress)
    runs = [session.run(cache) for cache in job.caches]
    likeness = session.psnr_by_prompt(runs)
    work.announce(None)
    list(
        work.await_results(session.replicas - 1, replica.stay_awake)
    )  # this rank may own the store that they still use
    lead.end()
    bench = to_bench(job, gather(), engine.model, likeness, started)
    scores = score(job, progress) if job.accuracy else None
    progress.stage("write")
    job.remove_latents()
    document = to_document(job, runs, likeness, scores, engine.model)
    table = to_markdown(document)
    with StagedFiles() as files:
        files.stage(job.folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        files.stage(job.folder / TABLE).write_text(table, encoding="utf-8")
        text = bench.model_dump_json(by_alias=True, indent=1)
        files.stage(job.folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    progress.done()
    return TableResults((DOCUMENT, TABLE, JSON_FILE, *(f"{cache}/" for cache in job.caches)), table)
