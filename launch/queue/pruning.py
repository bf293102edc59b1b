"""Removal of jobs that ended long ago, and of what the state folder has of them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from launch.queue.records import State

_BATCH = 200  # jobs of one transaction: gangs wait for milliseconds
_GANG_LOG = re.compile(r"(gang-\d+|starting-[0-9a-f]+)(-ray)?\.log")
# When a job ended; damaged rows may lack that, and a text is greater than every number.
_ENDED = "CASE WHEN typeof(ended) IN ('real', 'integer') THEN ended ELSE submitted END"
# A state that this program does not know ends with nothing else; a gang has what runs, and what waits is wanted.
_OLD = f"state NOT IN ('{State.QUEUED}', '{State.RUNNING}') AND {_ENDED} < ?"


def count_ended(db: sqlite3.Connection, before: float) -> int:
    """How many jobs ended before that time, in unix seconds."""
    count: int = db.execute(f"SELECT count(*) FROM jobs WHERE {_OLD}", (before,)).fetchone()[0]
    return count


def remove_ended(db: sqlite3.Connection, before: float) -> int:
    """Remove some jobs that ended before that time, in unix seconds. Returns how many; 0 once none is left."""
    ids = [row[0] for row in db.execute(f"SELECT id FROM jobs WHERE {_OLD} LIMIT {_BATCH}", (before,))]
    db.executemany("DELETE FROM outputs WHERE job = ?", [(id,) for id in ids])
    db.executemany("DELETE FROM jobs WHERE id = ?", [(id,) for id in ids])
    return len(ids)


def old_logs(folder: Path, gangs: Sequence[str], before: float) -> list[Path]:
    """The logs of gangs that have ended, which nothing was written to since that time.

    Args:
        folder: the state folder.
        gangs: the names of those that are registered.
        before: unix seconds.
    """
    logs = folder / "logs"
    found = [(log, _GANG_LOG.fullmatch(log.name)) for log in logs.iterdir()] if logs.is_dir() else []
    return sorted(log for log, name in found if name and name[1] not in gangs and log.lstat().st_mtime < before)
