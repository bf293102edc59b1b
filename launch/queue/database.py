"""The SQLite file of the queue: opened for one transaction at a time, with errors in one sentence."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from engine.errors import InvalidInput

_VERSION = 1
_FILE = "queue.db"
_LOCK_TIMEOUT_SECONDS = 60.0  # transactions take milliseconds, but a machine may be busy

_SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    wish TEXT NOT NULL,
    options TEXT NOT NULL,
    config TEXT NOT NULL,
    submitted REAL NOT NULL,
    started REAL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    restarts INTEGER NOT NULL DEFAULT 0,
    preemptions INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    gang TEXT,
    progress TEXT
);
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE TABLE outputs (
    path BLOB NOT NULL,  -- file names need not be UTF-8
    job INTEGER NOT NULL REFERENCES jobs (id)
);
CREATE INDEX outputs_by_path ON outputs (path);
CREATE TABLE gangs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, or a new gang would own the jobs of a lost one
    host TEXT NOT NULL,
    realm TEXT,  -- PID namespace
    pid INTEGER NOT NULL,
    birth TEXT,  -- start of the process, in clock ticks since the boot
    ranks INTEGER NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    wish TEXT NOT NULL,
    registered REAL NOT NULL,
    beat REAL NOT NULL,  -- newest renewal of the lease
    error TEXT
);
"""


class Database:
    """The SQLite file in a state folder.

    Each transaction has a connection of its own, so the object may be used from any thread, and after a fork.

    The journal is a rollback journal: a write-ahead log needs memory shared by all processes, which a network file
    system does not provide. A commit deletes the journal, and only ``synchronous = EXTRA`` has that deletion on the
    disk before the commit returns; with FULL a power failure might lose the newest job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / _FILE

    @contextmanager
    def changing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """An exclusive transaction. It is committed when the block ends, and rolled back if the block raises.

        Args:
            create: create the folder and the file if they do not exist.

        Raises:
            InvalidInput: there is no queue yet, or the file cannot be used.
        """
        with self._errors_in_a_sentence():
            if create:
                self._create_folder()
            elif not self.file.exists():
                raise self._no_queue()
            with self._open("rwc") as connection:
                connection.execute("BEGIN IMMEDIATE")
                if self._version(connection) == 0:
                    self._create_tables(connection)
                    connection.execute("COMMIT")  # the tables stay if the block raises
                    connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")  # otherwise closing rolls it back

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads one consistent state.

        Raises:
            InvalidInput: there is no queue yet, or the file cannot be used.
        """
        with self._errors_in_a_sentence():
            if not self.file.exists():
                raise self._no_queue()
            with self._open("rw") as connection:
                connection.execute("BEGIN")
                if self._version(connection) == 0:  # the process that created it was killed
                    raise self._no_queue()
                yield connection

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.file.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None, uri=True)
        with closing(connection):
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = EXTRA")
            yield connection

    def _no_queue(self) -> InvalidInput:
        return InvalidInput(f"There is no queue in {self.folder}: submit a job, or name its folder with --state.")

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA.split(";\n"):  # executescript would commit the transaction first
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the tables, or 0 for an empty file."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == _VERSION or (version == 0 and not tables):
            return version
        raise InvalidInput(
            f"{self.file} is a queue of another version of Lockstep (its tables have version {version}, this one knows "
            f"{_VERSION}): use that version, or another folder with --state."
        )

    def _create_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"The state folder {self.folder} cannot be made ({error.strerror}): choose another with --state."
            ) from None

    @contextmanager
    def _errors_in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # not writable, full, locked, no such folder
            raise InvalidInput(
                f"The queue {self.file} cannot be used ({error}): see to it, or choose another folder with --state."
            ) from None
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # an error in this program
                raise
            raise InvalidInput(
                f"{self.file} is damaged or no queue at all ({error}): move it away, or choose another folder with "
                "--state."
            ) from None
        except OSError as error:
            raise InvalidInput(f"The state folder {self.folder} cannot be read ({error.strerror}).") from None
