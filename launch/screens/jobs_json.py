"""What `lockstep jobs --json` prints: one JSON document for programs to read, described in docs/cluster.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import IO, Any

from launch.queue.records import GangRecord, JobRecord, Wish

SCHEMA = 1
"""Fields may be added under the same number; it changes when one is removed or means something else."""


def print_jobs_json(jobs: Iterable[JobRecord], gangs: Sequence[GangRecord], stream: IO[str]) -> None:
    """Print the document, job by job, so that a long queue with long prompts is never in memory at once.

    Args:
        jobs: the oldest first.
    """
    stream.write(f'{{"schema": {SCHEMA}, "jobs": [')
    for index, job in enumerate(jobs):
        stream.write("\n" if index == 0 else ",\n")
        json.dump(job_fields(job), stream)
    stream.write(f'\n], "gangs": {json.dumps([gang_fields(gang) for gang in gangs])}}}\n')


def job_fields(job: JobRecord) -> dict[str, Any]:
    """The fields of one job. Times are unix seconds, and paths are absolute."""
    options, progress = job.options, job.progress
    unreadable = job.damage is not None and "its options" in job.damage
    paths = {
        "video": job.video,
        "report": options.report_path,
        "latents": options.latents,
        "image": options.image,
        "last_image": options.last_image,
        "config": options.config,
    }
    return {
        "job": job.id,
        "state": "damaged" if job.damage else job.state.value,
        "asked": None if job.wish is Wish.RUN else job.wish.value,
        "prompt": None if unreadable else job.prompt,
        "negative_prompt": None if unreadable else options.negative_prompt,
        "seed": None if unreadable else options.seeds[0],
        **{name: None if unreadable or path is None else str(path) for name, path in paths.items()},
        "model": job.model or None,
        "submitted": job.submitted,
        "started": job.started,
        "ended": job.ended,
        "attempts": job.attempts,
        "losses": job.losses,
        "restarts": job.restarts,
        "preemptions": job.preemptions,
        "gang": job.gang,
        "phase": progress.phase if progress else None,
        "step": progress.step if progress else None,
        "total_steps": progress.total_steps if progress else None,
        "skipped_steps": progress.skipped if progress else None,
        "seconds_left": progress.seconds_left if progress else None,
        "error": job.error,
        "kept": job.kept,
        "returns": [asdict(each) for each in job.returns],
        "damage": job.damage,
    }


def gang_fields(gang: GangRecord) -> dict[str, Any]:
    """The fields of one gang. Times are unix seconds."""
    return {
        "gang": gang.name,
        "state": gang.state.value if gang.alive else "lost",
        "ranks": gang.ranks,
        "model": gang.model,
        "host": gang.host,
        "pid": gang.pid,
        "registered": gang.registered,
        "heard_of": gang.beat,
        "error": gang.error,
    }
