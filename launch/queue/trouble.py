"""Why the queue's file cannot be used, in one sentence, and whether that may pass."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from engine.errors import InvalidInput


class QueueUnusable(InvalidInput):
    """The file of the queue cannot be used now."""


class QueueAway(QueueUnusable):
    """The file is locked, its disk is full or fails, or the folder is away: the same call may succeed later."""


class NoQueue(QueueAway):
    """There is no file. To a gang that has registered in it, it is away."""


class QueueDamaged(QueueUnusable):
    """The file is no database, or a damaged one."""


_ADVICE = "or choose another folder with --state"


def no_queue(folder: Path) -> NoQueue:
    """The error for a folder without a queue."""
    return NoQueue(f"There is no queue in {folder}: submit a job, or name its folder with --state.")


def another_version(file: Path, version: int, known: int) -> InvalidInput:
    """The error for tables that this version does not know."""
    return InvalidInput(
        f"{file} is a queue of another version of Lockstep (its tables have version {max(version, 0)}, this one knows "
        f"{known}): use that version, {_ADVICE}."
    )


def replaced(file: Path) -> QueueAway:
    """The error for a file that is not the one in which a gang has registered."""
    return QueueAway(f"{file} is another queue than before: bring the earlier file back, or end the gangs.")


def unreadable(folder: Path, error: OSError) -> QueueAway:
    """The error for a folder that the system refuses to look into."""
    return QueueAway(f"The state folder {folder} cannot be read ({error.strerror}): see to it, {_ADVICE}.")


def described(error: sqlite3.DatabaseError, file: Path, wait_seconds: float) -> QueueUnusable | None:
    """The error of SQLite in one sentence; None for one that is a fault of this program.

    Args:
        file: of the queue.
        wait_seconds: for which the call has waited for other processes.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    match code & 0xFF:  # the rest says more of the same
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return QueueAway(
                f"The queue {file} cannot be used, for another process has locked it for {wait_seconds:g} s ({error}): "
                f"try again, and end what holds it (`fuser {file}` names it)."
            )
        case sqlite3.SQLITE_FULL:
            return QueueAway(f"The queue {file} cannot be changed, for its disk is full: make room there, {_ADVICE}.")
        case sqlite3.SQLITE_READONLY if code != sqlite3.SQLITE_READONLY_DBMOVED:
            return QueueAway(
                f"The queue {file} cannot be changed, for it or its file system is read-only ({error}): see to its "
                f"permissions and its mount, {_ADVICE}."
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return QueueAway(
                f"The queue {file} cannot be used ({error}): see that its folder is mounted and may be written, "
                f"{_ADVICE}."
            )
        case sqlite3.SQLITE_IOERR:
            return QueueAway(
                f"The queue {file} cannot be used, for its disk fails or is away ({error}): see to it, {_ADVICE}."
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return QueueDamaged(
                f"{file} is damaged or no queue at all ({error}): end its gangs, then get its jobs back with `sqlite3 "
                f"{file} .recover | sqlite3 NEW` and put NEW in its place, or move it away to begin anew."
            )
    if isinstance(error, sqlite3.OperationalError):
        return QueueUnusable(f"The queue {file} cannot be used ({error}): see to it, {_ADVICE}.")
    return None
