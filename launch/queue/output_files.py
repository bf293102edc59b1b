"""The files that unfinished jobs will write: no two of them the same. A job that is retried takes its own again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

from engine.errors import InvalidInput
from launch.queue.records import JobRecord, State, Wish
from launch.queue.rows import output_paths


def refuse_taken(db: sqlite3.Connection, path: bytes, ids: Sequence[int]) -> None:
    """Refuse a file that an unfinished job will write.

    Args:
        ids: of jobs that are submitted together with the one that wants it.

    Raises:
        InvalidInput: one sentence that names the file and the job.
    """
    taken = db.execute("SELECT job FROM outputs WHERE path = ?", (path,)).fetchone()
    if taken is None:
        return
    name = os.fsdecode(path)
    if taken["job"] in ids:
        raise InvalidInput(f"{name} would be written twice: give --output, --report and --latents apart.")
    raise InvalidInput(
        f"{name} will be written by job {taken['job']}, which is not finished: choose another --output, or cancel "
        "that job."
    )


def put_back(db: sqlite3.Connection, job: JobRecord) -> None:
    """Put a failed or cancelled job back into the queue.

    Raises:
        InvalidInput: it has not ended or has succeeded, cannot be read, or its files are another job's by now.
    """
    if job.damage:
        raise InvalidInput(f"Job {job.id} is damaged in the queue ({job.damage}): submit it again.")
    if not job.state.is_final:
        raise InvalidInput(
            f"Job {job.id} is {job.described_state}: only a job that has failed or was cancelled can be retried."
        )
    if job.state is State.SUCCEEDED:
        raise InvalidInput(
            f"Job {job.id} has succeeded: to make its video anew, submit it again with another --output."
        )
    _refuse_made(db, job)
    for path in output_paths(job.options):
        refuse_taken(db, path, ())
        db.execute("INSERT INTO outputs VALUES (?, ?)", (path, job.id))
    # the number of attempts stays, for it tells the next attempt from those before
    cleared = ", ".join(f"{column} = NULL" for column in ("error", "kept", "started", "ended", "gang", "returns"))
    db.execute(
        f"UPDATE jobs SET state = ?, wish = ?, losses = 0, restarts = 0, preemptions = 0, {cleared} WHERE id = ?",
        (State.QUEUED, Wish.RUN, job.id),
    )


def _refuse_made(db: sqlite3.Connection, job: JobRecord) -> None:
    """Refuse a job whose video a later one has made under the same name."""
    later = db.execute(
        "SELECT id FROM jobs WHERE id > ? AND state = ? AND json_valid(options) "
        "AND json_extract(options, '$.output') = ? LIMIT 1",
        (job.id, State.SUCCEEDED, os.fsencode(job.video).decode("utf-8", "replace")),
    ).fetchone()
    if later is not None:
        raise InvalidInput(
            f"{job.video} was made by job {later['id']} meanwhile: submit job {job.id} again, with another --output."
        )
