"""Gangs that are gone, and what becomes of the jobs that they had."""

from __future__ import annotations

import sqlite3

from launch.queue.processes import birth, own_realm
from launch.queue.records import JobRecord, State, Wish
from launch.queue.rows import gang_name

LEASE_SECONDS = 60.0
"""A gang that has not beaten for so long counts as gone."""


def is_gone(gang: sqlite3.Row, now: float, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Whether a gang's process is no more, as far as that can be seen from here, or was silent for too long."""
    realm = own_realm()
    ended = realm is not None and gang["realm"] == realm and birth(gang["pid"]) != gang["birth"]
    return ended or now - gang["beat"] > lease_seconds


def remove_dead(db: sqlite3.Connection, now: float, lease_seconds: float) -> None:
    """Remove the rows of gangs that are gone."""
    for gang in db.execute("SELECT * FROM gangs").fetchall():
        if is_gone(gang, now, lease_seconds):
            db.execute("DELETE FROM gangs WHERE id = ?", (gang["id"],))


def living(db: sqlite3.Connection) -> set[str]:
    """The names of all gangs in the table."""
    return {gang_name(row["id"]) for row in db.execute("SELECT id FROM gangs")}


def let_go(db: sqlite3.Connection, id: int, wish: Wish, now: float) -> None:
    """Nobody runs the job any more: it waits for the next gang, unless the user has cancelled it."""
    if wish is Wish.CANCEL:
        end(db, id, State.CANCELLED, None, now)
    else:
        db.execute("UPDATE jobs SET state = ?, started = NULL, gang = NULL WHERE id = ?", (State.QUEUED, id))


def end(db: sqlite3.Connection, id: int, state: State, error: str | None, now: float) -> None:
    db.execute("UPDATE jobs SET state = ?, error = ?, ended = ? WHERE id = ?", (state, error, now, id))
    db.execute("DELETE FROM outputs WHERE job = ?", (id,))  # others may write there from now on


def count_loss(db: sqlite3.Connection, job: JobRecord, now: float) -> None:
    """The job's gang is gone: another one shall go on with it, unless that has happened too often."""
    losses = job.losses + 1
    db.execute("UPDATE jobs SET losses = ? WHERE id = ?", (losses, job.id))
    if losses <= job.max_losses or job.wish is Wish.CANCEL:
        let_go(db, job.id, job.wish, now)
    else:
        error = f"{losses} gangs were lost while they ran this job, the last of them {job.gang}: it may be the cause."
        end(db, job.id, State.FAILED, error, now)
