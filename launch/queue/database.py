"""The file of the queue: opened for one transaction at a time, and in one sentence where that cannot be."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from engine.errors import InvalidInput

_VERSION = 1
_FILE = "queue.db"
_PATIENCE_SECONDS = 60.0  # others hold the file for milliseconds; a machine may be busy

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
    path BLOB NOT NULL,  -- names of files need not be text
    job INTEGER NOT NULL REFERENCES jobs (id)
);
CREATE INDEX outputs_by_path ON outputs (path);
CREATE TABLE gangs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- a name is never given again, or a new gang would own a dead one's jobs
    host TEXT NOT NULL,
    realm TEXT,
    pid INTEGER NOT NULL,
    birth TEXT,
    ranks INTEGER NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    wish TEXT NOT NULL,
    registered REAL NOT NULL,
    beat REAL NOT NULL,
    error TEXT
);
"""


class Database:
    """The SQLite file in a state folder.

    Each transaction has a connection of its own, so a store may be used from any thread, and after a fork.

    The journal is SQLite's classic one: a write-ahead log needs memory that all processes share, which a folder on a
    network file system does not give. With it a commit is the deletion of a file, which only ``synchronous = EXTRA``
    has on the disk before the commit returns; FULL might lose the newest job in a power cut.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / _FILE

    @contextmanager
    def changing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that no other one runs beside. It counts when the block ends well.

        Args:
            create: make the folder and the file where there is none.

        Raises:
            InvalidInput: there is no queue yet, or the file cannot be used.
        """
        with self._said_in_a_sentence():
            if create:
                self._make_folder()
            elif not self.file.exists():
                raise self._none()
            with self._open("rwc") as connection:
                connection.execute("BEGIN IMMEDIATE")
                if self._version(connection) == 0:
                    self._make_tables(connection)
                    connection.execute("COMMIT")  # they stay, should the block be refused
                    connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")  # else closing rolls it back

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A view of one moment.

        Raises:
            InvalidInput: there is no queue yet, or the file cannot be used.
        """
        with self._said_in_a_sentence():
            if not self.file.exists():
                raise self._none()
            with self._open("rw") as connection:
                connection.execute("BEGIN")
                if self._version(connection) == 0:  # whoever made it was killed
                    raise self._none()
                yield connection

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.file.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, timeout=_PATIENCE_SECONDS, isolation_level=None, uri=True)
        with closing(connection):
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = EXTRA")
            yield connection

    def _none(self) -> InvalidInput:
        return InvalidInput(f"There is no queue in {self.folder}: submit a job, or name its folder with --state.")

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA.split(";\n"):  # executescript would commit before it begins
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _version(self, connection: sqlite3.Connection) -> int:
        """This program's, or 0 for an empty file."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == _VERSION or (version == 0 and not tables):
            return version
        raise InvalidInput(
            f"{self.file} is a queue of another version of Lockstep (its tables have version {version}, this one knows "
            f"{_VERSION}): use that version, or another folder with --state."
        )

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"The state folder {self.folder} cannot be made ({error.strerror}): choose another with --state."
            ) from None

    @contextmanager
    def _said_in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # not writable, full, locked, no such folder
            raise InvalidInput(
                f"The queue {self.file} cannot be used ({error}): see to it, or choose another folder with --state."
            ) from None
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # a mistake of this program
                raise
            raise InvalidInput(
                f"{self.file} is damaged or no queue at all ({error}): move it away, or choose another folder with "
                "--state."
            ) from None
        except OSError as error:
            raise InvalidInput(f"The state folder {self.folder} cannot be read ({error.strerror}).") from None
