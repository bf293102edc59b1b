"""One rank of the test: from loading the model to writing the results."""

from __future__ import annotations

import json
import shutil

from engine.execution.imports import import_ahead
from engine.progress import Progress
from engine.storage.files import StagedFiles
from launch.mlperf.job import DOCUMENT, TABLE, MlperfJob
from launch.screens.measurements import TableResults


def run_mlperf(job: MlperfJob, progress: Progress, rank: int) -> TableResults | None:
    """Load the model, have LoadGen measure it with the cache off and on, and write the results; collective.

    Returns:
        On the first rank, what was written; None elsewhere.
    """
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.engine import Engine
    from launch.mlperf.replica import Replica
    from launch.mlperf.results import to_document
    from launch.mlperf.session import Session
    from launch.mlperf.tables import to_markdown
    from launch.mlperf.vbench import score
    from launch.mlperf.video import Maker
    from launch.ranks.lead import Lead
    from parallel.shared_work import SharedWork

    if rank == 0:
        for line in job.notes:
            progress.note(line)
    engine = Engine.load(job.config, progress)
    lead = Lead(engine, Maker(job.requests, job.caches, job.noise), progress)
    if not lead.leads:
        lead.serve()
        engine.close()
        return None
    work = SharedWork(engine.model.ranks, "mlperf")
    replica = Replica(job, lead, work, progress)
    if rank != 0:
        replica.serve()
        work.finish(None)
        lead.end()
        engine.close()
        return None
    session = Session(job, replica, job.config.parallel.degrees.data, progress)
    runs = [session.run(cache) for cache in job.caches]
    likeness = session.psnr_by_prompt(runs)
    work.announce(None)
    list(
        work.await_results(session.replicas - 1, replica.stay_awake)
    )  # this rank may own the store that they still use
    lead.end()
    engine.close()
    scores = score(job, progress) if job.accuracy else None
    progress.stage("write")
    shutil.rmtree(job.folder / "latents", ignore_errors=True)
    document = to_document(job, runs, likeness, scores, engine.model)
    table = to_markdown(document)
    with StagedFiles() as files:
        files.stage(job.folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        files.stage(job.folder / TABLE).write_text(table, encoding="utf-8")
    progress.done()
    return TableResults((DOCUMENT, TABLE, *(f"{cache}/" for cache in job.caches)), table)
