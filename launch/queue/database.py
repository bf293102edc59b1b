"""The SQLite file of the queue: opened for one transaction at a time, with errors in one sentence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from engine.errors import InvalidInput
from engine.storage.private import create_private_file, make_private_folder
from launch.queue import trouble
from launch.queue.schema import VERSION, bring_up_to_date, identity_of, version_of

FILE = "queue.db"
WAIT_SECONDS = 30.0
"""How long a command waits for other processes: transactions take milliseconds, but a machine may be busy."""
_SILENT_SECONDS = 3.0  # of that wait
_PAGES = 1000  # of 4 KiB, that one transaction gives back

T = TypeVar("T")


class Database:
    """The SQLite file in a state folder.

    Each transaction has a connection of its own, so the object may be used from any thread, and after a fork.

    The journal is a rollback journal: a write-ahead log needs memory shared by all processes, which a network file
    system does not provide. A commit deletes the journal, and only ``synchronous = EXTRA`` has that deletion on the
    disk before the commit returns; with FULL a power failure might lose the newest job.
    """

    def __init__(
        self, folder: Path, wait_seconds: float = WAIT_SECONDS, waiting: Callable[[str], None] = lambda line: None
    ) -> None:
        """
        Args:
            wait_seconds: for other processes that have locked the file.
            waiting: called with one line when that takes longer than a moment.
        """
        self.folder = folder
        self.file = folder / FILE
        self._wait_seconds = wait_seconds
        self._waiting = waiting
        self._identity: str | None = None

    @contextmanager
    def changing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """An exclusive transaction. It is committed when the block ends, and rolled back if the block raises.

        Args:
            create: create the folder and the file if they do not exist.

        Raises:
            QueueUnusable: there is no queue yet, or the file cannot be used.
            InvalidInput: it is of another version.
        """
        with self._errors_in_a_sentence():
            if create:
                self._create_folder()
                with suppress(OSError):  # SQLite says why it cannot open the file
                    create_private_file(self.file)  # its journal gets the same mode
            elif not self.file.exists():
                raise trouble.no_queue(self.folder)
            with self._open("rwc" if create else "rw") as connection:
                if create:  # has an effect before the first table alone; what `prune` frees can be given back then
                    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                self._wait(lambda: connection.execute("BEGIN IMMEDIATE"), connection)
                version = self._check(connection)
                if version == 0 and not create:  # the process that created it was killed
                    raise trouble.no_queue(self.folder)
                if version != VERSION:
                    bring_up_to_date(connection, version)
                    connection.execute("COMMIT")  # the tables stay if the block raises
                    connection.execute("BEGIN IMMEDIATE")
                self._check_identity(connection)
                yield connection
                connection.execute("COMMIT")  # otherwise closing rolls it back

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads one consistent state.

        Raises:
            QueueUnusable: there is no queue yet, or the file cannot be used.
            InvalidInput: it is of another version.
        """
        with self._errors_in_a_sentence():
            if not self.file.exists():
                raise trouble.no_queue(self.folder)
            with self._open("rw") as connection:
                connection.execute("BEGIN")
                version = self._wait(lambda: self._check(connection), connection)
                if version == 0:
                    raise trouble.no_queue(self.folder)
                if version != VERSION:
                    connection.execute("ROLLBACK")
                    with suppress(trouble.QueueAway), self.changing():  # what cannot be changed is read as it is
                        pass
                    connection.execute("BEGIN")
                self._check_identity(connection)
                yield connection

    def give_back_pages(self) -> bool:
        """Take some unused pages from the end of the file, in a short transaction. Returns whether there may be more.

        A file that an earlier version has made keeps its pages, and uses them again for the next jobs.

        Raises:
            QueueUnusable: the file cannot be used.
        """
        with self._errors_in_a_sentence(), self._open("rw") as connection:
            before: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
            # executescript, since execute takes one step, which is one page
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
            return 0 < connection.execute("PRAGMA freelist_count").fetchone()[0] < before

    def stay_with(self, connection: sqlite3.Connection) -> None:
        """Refuse any other file from now on: in an empty mount point somebody may make a new queue while ours is away,
        whose gangs and jobs have the same numbers."""
        self._identity = identity_of(connection)

    def take_any(self) -> None:
        """Forget what :meth:`stay_with` has noted."""
        self._identity = None

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.file.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, timeout=self._wait_seconds, isolation_level=None, uri=True)
        with closing(connection):
            connection.row_factory = sqlite3.Row
            # one text that is not UTF-8 must not hide all rows
            connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            self._wait(lambda: connection.execute("PRAGMA synchronous = EXTRA"), connection)  # reads the file
            yield connection

    def _wait(self, begin: Callable[[], T], connection: sqlite3.Connection) -> T:
        """Take a lock; say so if it takes longer than a moment."""
        first = min(_SILENT_SECONDS, self._wait_seconds)
        connection.execute(f"PRAGMA busy_timeout = {int(first * 1000)}")
        try:
            return begin()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or self._wait_seconds <= first:
                raise
            self._waiting(f"another process has locked {self.file}: waiting, at most {self._wait_seconds:g} s")
            connection.execute(f"PRAGMA busy_timeout = {int((self._wait_seconds - first) * 1000)}")
            return begin()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self._wait_seconds * 1000)}")

    def _check(self, connection: sqlite3.Connection) -> int:
        """The version of the tables, or 0 for an empty file."""
        version = version_of(connection)
        if not 0 <= version <= VERSION:
            raise trouble.another_version(self.file, version, VERSION)
        return version

    def _check_identity(self, connection: sqlite3.Connection) -> None:
        if self._identity is not None and identity_of(connection) != self._identity:
            raise trouble.replaced(self.file)

    def _create_folder(self) -> None:
        try:
            make_private_folder(self.folder)
        except OSError as error:
            raise InvalidInput(
                f"The state folder {self.folder} cannot be made ({error.strerror}): choose another with --state."
            ) from None

    @contextmanager
    def _errors_in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            described = trouble.described(error, self.file, self._wait_seconds)
            if described is None:
                raise
            raise described from None
        except OSError as error:
            raise trouble.unreadable(self.folder, error) from None
