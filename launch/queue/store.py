"""The durable queue: every change is one transaction, so a process may be killed at any moment and nothing is lost."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import asdict

from launch.queue.lost import LEASE_SECONDS, count_loss, end, let_go, living, remove_dead
from launch.queue.processes import birth, own_host, own_realm
from launch.queue.records import GangState, GangWish, JobProgress, JobRecord, State, Wish
from launch.queue.rows import gang_name, gang_number, job_record, storable
from launch.queue.submissions import Submissions


class LeaseLost(Exception):
    """The job, or the gang, is no longer the caller's: it was silent for too long, and another may be at work."""


class Queue(Submissions):
    """Of one state folder, which all that submit and serve must see. From any thread or process.

    A job has one gang at most. What a gang says of a job holds only as long as it is that gang's: it names the number
    of its attempt, and gets :class:`LeaseLost` once that is over. A folder or file that cannot be used is
    :class:`engine.errors.InvalidInput`.
    """

    def register(self, ranks: int, model: str, state: GangState = GangState.STARTING) -> str:
        """Become a gang of this queue, whose driver is this process. Returns its name, which no other ever had.

        Args:
            model: ``model.path`` of its configuration, as it was given.
        """
        now, pid = self._clock(), os.getpid()
        values = (own_host(), own_realm(), pid, birth(pid), ranks, storable(model), state, GangWish.RUN, now, now)
        columns = "host, realm, pid, birth, ranks, model, state, wish, registered, beat"
        with self._database.changing(create=True) as db:
            cursor = db.execute(f"INSERT INTO gangs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            assert cursor.lastrowid is not None
            return gang_name(cursor.lastrowid)

    def beat(self, gang: str) -> GangWish:
        """Renew the gang's lease. Returns what the user wants of it.

        Raises:
            LeaseLost: it was given up, and its job with it.
        """
        with self._database.changing() as db:
            wish = self._gang(db, gang)
            db.execute("UPDATE gangs SET beat = ? WHERE id = ?", (self._clock(), gang_number(gang)))
            return wish

    def set_gang_state(self, gang: str, state: GangState, error: str | None = None) -> None:
        """Say what the gang does, and what went wrong with it last, if anything did. Renews the lease as well.

        Raises:
            LeaseLost: it was given up.
        """
        with self._database.changing() as db:
            self._gang(db, gang)
            values = (state, storable(error), self._clock(), gang_number(gang))
            db.execute("UPDATE gangs SET state = ?, error = ?, beat = ? WHERE id = ?", values)

    def unregister(self, gang: str) -> None:
        """Be no gang any more. A job that it still has goes back into the queue."""
        with self._database.changing() as db:
            db.execute("DELETE FROM gangs WHERE id = ?", (gang_number(gang),))
            for job in self._running(db):
                if job.gang == gang:
                    let_go(db, job.id, job.wish, self._clock())

    def claim(self, gang: str, fits: Callable[[JobRecord], bool]) -> JobRecord | None:
        """Take the oldest job that waits, is not paused and fits. None if there is none, or the gang shall end.

        Args:
            fits: whether the gang can do the job; called outside of any transaction.

        Raises:
            LeaseLost: the gang was given up.
        """
        with self._database.reading() as db:
            if self._gang(db, gang) is GangWish.DOWN:
                return None
            rows = db.execute(
                "SELECT * FROM jobs WHERE state = ? AND wish = ? ORDER BY id", (State.QUEUED, Wish.RUN)
            ).fetchall()
        for waiting in map(job_record, rows):
            if fits(waiting) and (job := self._take(gang, waiting.id)):
                return job
        return None

    def _take(self, gang: str, id: int) -> JobRecord | None:
        with self._database.changing() as db:
            self._gang(db, gang)
            taken = db.execute(
                "UPDATE jobs SET state = ?, gang = ?, attempts = attempts + 1, started = ? "
                "WHERE id = ? AND state = ? AND wish = ?",
                (State.RUNNING, gang, self._clock(), id, State.QUEUED, Wish.RUN),
            )
            return self._find(db, id) if taken.rowcount else None  # else another gang was faster, or the user

    def take_back_lost(self, lease_seconds: float = LEASE_SECONDS) -> list[JobRecord]:
        """Put jobs of gangs that are gone back into the queue, each as it was, but for those that were lost too often.

        A gang is gone when it has not beaten for that long, or at once when its process was on this machine and is
        no more.

        Returns:
            Those jobs, as they are now: queued, failed or cancelled.
        """
        now = self._clock()
        with self._database.changing() as db:
            remove_dead(db, now, lease_seconds)
            names = living(db)
            lost = [job for job in self._running(db) if job.gang not in names]
            for job in lost:
                count_loss(db, job, now)
            return [self._find(db, job.id) for job in lost]

    def wish_of(self, id: int, attempt: int) -> Wish:
        """What the user wants of a job that the caller runs.

        Raises:
            LeaseLost: it is not the caller's any more.
        """
        with self._database.reading() as db:
            return self._own(db, id, attempt).wish

    def progress(self, id: int, attempt: int, progress: JobProgress) -> None:
        """Say how far a job is. Each call is a write to the disk: twice a second is often enough.

        Raises:
            LeaseLost: it is not the caller's any more.
        """
        with self._database.changing() as db:
            self._own(db, id, attempt)
            db.execute("UPDATE jobs SET progress = ? WHERE id = ?", (json.dumps(asdict(progress)), id))

    def count_restart(self, id: int, attempt: int, preempted: bool = False) -> None:
        """The job's ranks are started again.

        Args:
            preempted: because a node was taken away, which is counted apart.

        Raises:
            LeaseLost: it is not the caller's any more.
        """
        column = "preemptions" if preempted else "restarts"
        with self._database.changing() as db:
            self._own(db, id, attempt)
            db.execute(f"UPDATE jobs SET {column} = {column} + 1 WHERE id = ?", (id,))

    def finish(self, id: int, attempt: int, state: State, error: str | None = None) -> None:
        """The job has ended.

        Args:
            state: succeeded, failed or cancelled.
            error: one sentence, where it failed.

        Raises:
            LeaseLost: it is not the caller's any more.
        """
        assert state.is_final, state
        with self._database.changing() as db:
            self._own(db, id, attempt)
            end(db, id, state, storable(error), self._clock())

    def give_back(self, id: int, attempt: int) -> None:
        """Let go of a job: it waits for the next gang, or until it is unpaused. A cancelled one is cancelled with it.

        Raises:
            LeaseLost: it is not the caller's any more.
        """
        with self._database.changing() as db:
            let_go(db, id, self._own(db, id, attempt).wish, self._clock())

    def _running(self, db: sqlite3.Connection) -> list[JobRecord]:
        return [
            job_record(row) for row in db.execute("SELECT * FROM jobs WHERE state = ?", (State.RUNNING,)).fetchall()
        ]

    def _own(self, db: sqlite3.Connection, id: int, attempt: int) -> JobRecord:
        job = self._find(db, id)
        if job.state is not State.RUNNING or job.attempts != attempt:
            raise LeaseLost(f"attempt {attempt} at job {id} is over: the job is {job.state}, {job.attempts} attempts")
        return job

    def _gang(self, db: sqlite3.Connection, name: str) -> GangWish:
        row = db.execute("SELECT wish FROM gangs WHERE id = ?", (gang_number(name),)).fetchone()
        if row is None:
            raise LeaseLost(f"{name} is not registered any more: it was silent for too long")
        return GangWish(row["wish"])
