"""The user's side of the queue: submitting, listing, cancelling and pausing jobs."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from engine.errors import InvalidInput
from launch.queue import pruning
from launch.queue.database import WAIT_SECONDS, Database
from launch.queue.lost_gangs import finish_job, is_lost, registered
from launch.queue.output_files import put_back, refuse_taken
from launch.queue.records import GangRecord, GangWish, JobRecord, NewJob, State, Wish
from launch.queue.rows import gang_number, gang_record, job_record, job_values, output_paths
from launch.queue.trouble import NoQueue

_LARGEST_ID = 2**63 - 1
PAGE = 100
"""How many jobs are read at once."""


class Submissions:
    """The queue as far as a user needs it; :class:`launch.queue.store.Queue` adds the gangs' side.

    Every method raises :class:`launch.queue.trouble.QueueUnusable`, one sentence, where the folder or the file in it
    cannot be used: after ``wait_seconds`` where another process has locked it.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.time,
        wait_seconds: float = WAIT_SECONDS,
        waiting: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            folder: created with the first job or gang.
            clock: unix seconds. The clocks of all machines must differ by much less than the length of a lease.
            wait_seconds: for other processes that have locked the file.
            waiting: called with one line when that takes longer than a moment.
        """
        self.folder = folder
        self._database = Database(folder, wait_seconds, waiting)
        self._clock = clock

    def submit(self, jobs: Sequence[NewJob]) -> list[int]:
        """Put jobs into the queue, all of them or none; on return they are on the disk.

        Returns:
            Their ids, in order.

        Raises:
            InvalidInput: two of them, or one and an unfinished job, would write the same file.
        """
        now = self._clock()
        ids: list[int] = []
        with self._database.changing(create=True) as db:
            for job in jobs:
                columns = "state, wish, options, config, submitted"
                cursor = db.execute(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?)", job_values(job, now))
                assert cursor.lastrowid is not None
                ids.append(cursor.lastrowid)
                for path in output_paths(job.options):
                    refuse_taken(db, path, ids)
                    db.execute("INSERT INTO outputs VALUES (?, ?)", (path, ids[-1]))
        return ids

    def claims(self, path: Path) -> bool:
        """Whether a job that is not finished will write that file.

        Args:
            path: absolute.
        """
        name = os.fsencode(os.path.realpath(path))
        try:
            with self._database.reading() as db:
                return db.execute("SELECT 1 FROM outputs WHERE path = ?", (name,)).fetchone() is not None
        except NoQueue:
            return False

    def wish(self, id: int, wish: Wish) -> None:
        """Ask for a job to be cancelled, paused or run. A waiting job is changed at once, a running one by its gang.

        Raises:
            InvalidInput: there is no such job, or it is finished, or is being cancelled.
        """
        with self._database.changing() as db:
            job = self._find(db, id)
            if job.damage:
                return self._wish_for_damaged(db, job, wish)
            if job.state.is_final:
                done = {Wish.RUN: "unpaused", Wish.PAUSE: "paused", Wish.CANCEL: "cancelled"}[wish]
                raise InvalidInput(f"Job {id} has already {_ended(job.state)}: it cannot be {done} any more.")
            if job.wish is Wish.CANCEL and wish is not Wish.CANCEL:
                raise InvalidInput(f"Job {id} is being cancelled: submit it again instead.")
            db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (wish, id))
            if wish is Wish.CANCEL and job.state is State.QUEUED:
                finish_job(db, id, State.CANCELLED, None, self._clock())

    def retry(self, id: int) -> None:
        """Put a failed or cancelled job back into the queue. It goes on from what it has left.

        Raises:
            InvalidInput: there is no such job, it has not ended, or has succeeded, or another job has its files by now.
        """
        with self._database.changing() as db:
            job = self._find(db, id)
            put_back(db, job)

    def _wish_for_damaged(self, db: sqlite3.Connection, job: JobRecord, wish: Wish) -> None:
        """One that cannot be read may be cancelled alone. Its gang, if it has one, hears of it."""
        if wish is not Wish.CANCEL:
            raise InvalidInput(f"Job {job.id} is damaged in the queue ({job.damage}): it can only be cancelled.")
        db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (wish, job.id))
        (state,) = db.execute("SELECT state FROM jobs WHERE id = ?", (job.id,)).fetchone()
        if state != State.RUNNING:
            finish_job(db, job.id, State.CANCELLED, None, self._clock())

    def jobs(self) -> list[JobRecord]:
        """All jobs, the oldest first."""
        with self._database.reading() as db:
            return [job_record(row) for row in db.execute("SELECT * FROM jobs ORDER BY id")]

    def newest(self, count: int | None = None, states: Collection[State] = ()) -> list[int]:
        """The ids of the newest jobs, the oldest of them first. It reads an index alone.

        Args:
            count: at most so many; None for all.
            states: only of these; of any if there is none.
        """
        where = f"WHERE state IN ({', '.join('?' * len(states))}) " if states else ""
        limit = -1 if count is None else min(count, _LARGEST_ID)
        with self._database.reading() as db:
            rows = db.execute(f"SELECT id FROM jobs {where}ORDER BY id DESC LIMIT ?", (*states, limit))
            return [row["id"] for row in rows][::-1]

    def read(self, ids: Sequence[int]) -> list[JobRecord]:
        """Those jobs that there are, the oldest first."""
        marks = ", ".join("?" * len(ids))
        with self._database.reading() as db:
            return [job_record(row) for row in db.execute(f"SELECT * FROM jobs WHERE id IN ({marks}) ORDER BY id", ids)]

    def each(self, ids: Sequence[int]) -> Iterator[JobRecord]:
        """The same, a page at a time, and without holding a lock in between: whoever takes them may be slow."""
        for first in range(0, len(ids), PAGE):
            yield from self.read(ids[first : first + PAGE])

    def counts(self) -> dict[str, int]:
        """How many jobs there are of each state."""
        with self._database.reading() as db:
            rows = db.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state ORDER BY state").fetchall()
            return {str(row["state"]): row["jobs"] for row in rows}

    def count_ended(self, before: float) -> int:
        """How many jobs ended before that time, in unix seconds."""
        with self._database.reading() as db:
            return pruning.count_ended(db, before)

    def remove_ended(self, before: float) -> int:
        """Remove the jobs that ended before that time, in unix seconds, and give their room back to the disk. Returns
        how many. Gangs go on meanwhile: each transaction is short."""
        removed = 0
        while True:
            with self._database.changing() as db:
                some = pruning.remove_ended(db, before)
            if not some:
                break
            removed += some
        while removed and self._database.give_back_pages():
            pass
        return removed

    def job(self, id: int) -> JobRecord:
        """
        Raises:
            InvalidInput: there is no such job.
        """
        with self._database.reading() as db:
            return self._find(db, id)

    def gangs(self) -> list[GangRecord]:
        """All registered gangs, the oldest first; also those that were lost since and not removed yet."""
        with self._database.reading() as db:
            now = self._clock()
            return [gang_record(row, not is_lost(row, now)) for row in db.execute("SELECT * FROM gangs ORDER BY id")]

    def ask_down(self, name: str | None = None) -> list[str]:
        """Ask one gang to end, or all gangs. Returns the names of those that were asked.

        Raises:
            InvalidInput: there is no such gang.
        """
        with self._database.changing() as db:
            names = sorted(registered(db), key=gang_number)
            if name is not None and name not in names:
                known = f"there are {', '.join(names)}" if names else "there is none"
                raise InvalidInput(f"No gang here is named {name}: {known}.")
            asked = [name] if name is not None else names
            for each in asked:
                db.execute("UPDATE gangs SET wish = ? WHERE id = ?", (GangWish.DOWN, gang_number(each)))
            return asked

    def _find(self, db: sqlite3.Connection, id: int) -> JobRecord:
        row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone() if id <= _LARGEST_ID else None
        if row is None:
            raise InvalidInput(f"There is no job {id} in {self.folder}: `lockstep jobs` lists those that there are.")
        return job_record(row)


def _ended(state: State) -> str:
    return "been cancelled" if state is State.CANCELLED else state.value
