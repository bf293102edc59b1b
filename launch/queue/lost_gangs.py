"""Gangs that were lost, and what happens to their jobs."""

from __future__ import annotations

import sqlite3

from launch.queue.processes import own_pid_namespace, start_ticks
from launch.queue.records import JobRecord, State, Wish
from launch.queue.row_values import is_moment
from launch.queue.rows import gang_name, storable

LEASE_SECONDS = 60.0
"""A gang that has not renewed its lease for so long counts as lost."""
_FARTHEST_CLOCK_SECONDS = 86400.0  # by which another machine's clock may be ahead


def is_lost(gang: sqlite3.Row, now: float, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Whether a gang's process has ended, where it can be seen from here, or its lease has expired.

    Args:
        gang: a row of the table of gangs. now: unix seconds.
    """
    namespace = own_pid_namespace()
    visible = namespace is not None and gang["realm"] == namespace
    ended = visible and start_ticks(gang["pid"]) != gang["birth"]
    beat = gang["beat"]
    # a heartbeat that no clock of this cluster has made would hold the gang's job for ever
    return (
        ended
        or not is_moment(beat)
        or now - beat > lease_seconds
        or beat - now > max(_FARTHEST_CLOCK_SECONDS, lease_seconds)
    )


def remove_dead(db: sqlite3.Connection, now: float, lease_seconds: float) -> None:
    """Remove the rows of lost gangs."""
    for gang in db.execute("SELECT * FROM gangs").fetchall():
        if is_lost(gang, now, lease_seconds):
            db.execute("DELETE FROM gangs WHERE id = ?", (gang["id"],))


def registered(db: sqlite3.Connection) -> set[str]:
    """The names of all gangs in the table."""
    return {gang_name(row["id"]) for row in db.execute("SELECT id FROM gangs")}


def release_job(db: sqlite3.Connection, id: int, wish: Wish, now: float) -> None:
    """Take a job from its gang: it waits for the next one, unless the user has cancelled it."""
    if wish is Wish.CANCEL:
        finish_job(db, id, State.CANCELLED, None, now)
    else:
        db.execute("UPDATE jobs SET state = ?, started = NULL, gang = NULL WHERE id = ?", (State.QUEUED, id))


def finish_job(
    db: sqlite3.Connection, id: int, state: State, error: str | None, now: float, kept: str | None = None
) -> None:
    """Set the final state of a job. Other jobs may write to its output files from now on."""
    values = (state, error, now, kept, id)
    db.execute("UPDATE jobs SET state = ?, error = ?, ended = ?, kept = ? WHERE id = ?", values)
    db.execute("DELETE FROM outputs WHERE job = ?", (id,))


def finish_damaged(db: sqlite3.Connection, job: JobRecord, now: float) -> None:
    """Set a job as failed, or as cancelled if that was asked, that no gang can run since its row cannot be read."""
    error = f"Its row in the queue is damaged ({job.damage}): submit it again."
    state = State.CANCELLED if job.wish is Wish.CANCEL else State.FAILED
    finish_job(db, job.id, state, storable(error), now)


def count_loss(db: sqlite3.Connection, job: JobRecord, now: float) -> None:
    """Count the loss of a job's gang: the job waits for another one, unless that has happened too often."""
    if job.damage:
        return finish_damaged(db, job, now)
    losses = job.losses + 1
    db.execute("UPDATE jobs SET losses = ? WHERE id = ?", (losses, job.id))
    if losses <= job.max_losses or job.wish is Wish.CANCEL:
        release_job(db, job.id, job.wish, now)
    else:
        error = f"{losses} gangs were lost while they ran this job, the last of them {job.gang}: it may be the cause."
        finish_job(db, job.id, State.FAILED, error, now)
