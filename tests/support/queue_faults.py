"""Faults of the queue's file: full, locked or away, by SQLite's own means."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.queue.database import Database


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process holds the file. Nobody can read either."""
    holder = sqlite3.connect(folder / "queue.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """The folder is not mounted."""
    elsewhere = folder.with_name(folder.name + ".elsewhere")
    folder.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(folder)


@contextmanager
def full() -> Iterator[None]:
    """No queue of this process may get larger; what is free in the file is used up."""
    open_one = Database._open

    @contextmanager
    def open_full(self: Database, mode: str) -> Iterator[sqlite3.Connection]:
        with open_one(self, mode) as connection:
            connection.execute("PRAGMA max_page_count = 1")  # that is, as many as there are
            yield connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "_open", open_full)
        yield
