"""Jobs that gangs gave back since their machines failed: who may take them again, and when a job is given up."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, replace

from launch.queue.lost_gangs import finish_job, release_job
from launch.queue.records import GangReturn, JobRecord, State, Wish
from launch.queue.rows import storable

_MOST_GANGS = 3
_MOST_RETURNS = 9  # also where one gang alone serves the queue
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 30.0, 900.0


def wait_seconds(returns: int) -> float:
    """How long a gang leaves a job that it gave back to others, after so many returns."""
    return min(_FIRST_WAIT_SECONDS * 2.0 ** (returns - 1), _LONGEST_WAIT_SECONDS)


def is_left_to_others(job: JobRecord, gang: str, now: float) -> bool:
    """Whether the gang gave the job back a short time ago, so that another one should take it.

    Args:
        now: unix seconds.
    """
    own = [each.at for each in job.returns if each.gang == gang]
    return bool(own) and now < max(own) + wait_seconds(len(own))


def is_own_return(job: JobRecord, gang: str) -> bool:
    """Whether the gang has ever given the job back."""
    return any(each.gang == gang for each in job.returns)


def give_back(db: sqlite3.Connection, job: JobRecord, wish: Wish, newest: GangReturn, kept: str | None) -> None:
    """Put a job back that its gang could not run, or fail it if that has happened on three gangs.

    Args:
        wish: what the user has asked of it.
        newest: the return.
        kept: what it has left.
    """
    returns = [*job.returns, replace(newest, reason=storable(newest.reason) or "")]
    db.execute("UPDATE jobs SET returns = ? WHERE id = ?", (json.dumps([asdict(each) for each in returns]), job.id))
    gangs = {each.gang for each in returns}
    if wish is not Wish.CANCEL and (len(gangs) >= _MOST_GANGS or len(returns) >= _MOST_RETURNS):
        finish_job(db, job.id, State.FAILED, _why_given_up(returns), newest.at, storable(kept))
    else:
        release_job(db, job.id, wish, newest.at)


def _why_given_up(returns: Sequence[GangReturn]) -> str:
    newest = {each.gang: each for each in returns}  # one reason for each gang
    reasons = "; ".join(f"{each.gang} on {each.host}: {each.reason.rstrip('.')}" for each in newest.values())
    gangs = "1 gang" if len(newest) == 1 else f"{len(newest)} gangs"
    return f"{gangs} gave this job back for faults of their machines, {len(returns)} times in all ({reasons})."
