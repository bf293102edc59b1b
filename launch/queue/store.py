"""The durable queue of jobs: every change is one transaction, so nothing is lost if a process is killed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import asdict

from launch.queue.lost_gangs import (
    LEASE_SECONDS,
    count_loss,
    finish_damaged,
    finish_job,
    registered,
    release_job,
    remove_dead,
)
from launch.queue.processes import own_host, own_pid_namespace, start_ticks
from launch.queue.records import GangState, GangWish, JobProgress, JobRecord, State, Wish
from launch.queue.rows import gang_name, gang_number, gang_wish, job_wish, storable
from launch.queue.submissions import PAGE, Submissions


class LeaseLost(Exception):
    """The caller's lease of a job or a gang has expired, and another gang may have the job."""


class Queue(Submissions):
    """The queue in one state folder, which every process that submits or serves must see. Usable from any thread.

    A job belongs to one gang at most. A gang's calls about a job carry the number of its attempt, and raise
    :class:`LeaseLost` once the job no longer belongs to that attempt. Every method raises
    :class:`launch.queue.trouble.QueueUnusable` where the folder or a file in it cannot be used.
    """

    def register(self, ranks: int, model: str, state: GangState = GangState.STARTING, create: bool = True) -> str:
        """Register a gang whose driver is this process. Returns its name, which is never used again.

        From then on another file in the place of the queue's counts as no queue, until the next registration.

        Args:
            model: ``model.path`` of its configuration, as it was given.
            create: make the queue if there is none. A gang that has lost its queue must not, or it would leave a second
                one in a mount point while the first is away.
        """
        now, pid = self._clock(), os.getpid()
        values = (
            own_host(),
            own_pid_namespace(),
            pid,
            start_ticks(pid),
            ranks,
            storable(model),
            state,
            GangWish.RUN,
            now,
            now,
        )
        columns = "host, realm, pid, birth, ranks, model, state, wish, registered, beat"
        self._database.take_any()
        with self._database.changing(create=create) as db:
            self._database.stay_with(db)
            cursor = db.execute(f"INSERT INTO gangs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            assert cursor.lastrowid is not None
            return gang_name(cursor.lastrowid)

    def renew_lease(self, gang: str) -> GangWish:
        """Renew a gang's lease. Returns what the user has asked of the gang.

        Raises:
            LeaseLost: the lease has expired.
        """
        with self._database.changing() as db:
            wish = self._gang(db, gang)
            db.execute("UPDATE gangs SET beat = ? WHERE id = ?", (self._clock(), gang_number(gang)))
            return wish

    def set_gang_state(self, gang: str, state: GangState, error: str | None = None) -> None:
        """Set what a gang does, and its last error, if there was one. Renews the lease as well.

        Raises:
            LeaseLost: the lease has expired.
        """
        with self._database.changing() as db:
            self._gang(db, gang)
            values = (state, storable(error), self._clock(), gang_number(gang))
            db.execute("UPDATE gangs SET state = ?, error = ?, beat = ? WHERE id = ?", values)

    def unregister(self, gang: str) -> None:
        """Remove a gang. A job that it still has goes back into the queue."""
        with self._database.changing() as db:
            db.execute("DELETE FROM gangs WHERE id = ?", (gang_number(gang),))
            for row in self._running(db):
                if row["gang"] == gang:
                    release_job(db, row["id"], job_wish(row["wish"]), self._clock())

    def release_strays(self, gang: str) -> None:
        """Put back every job that the queue has as the gang's, for a gang that runs none. There is one where a commit
        was made although it failed halfway."""
        with self._database.reading() as db:
            select = "SELECT id FROM jobs WHERE state = ? AND gang = ?"
            strays = [int(row["id"]) for row in db.execute(select, (State.RUNNING, gang))]
        for id in strays:
            with self._database.changing() as db:
                self._gang(db, gang)
                job = self._find(db, id)
                if job.state is State.RUNNING and job.gang == gang:
                    release_job(db, id, job.wish, self._clock())

    def claim(
        self, gang: str, fits: Callable[[JobRecord], bool], passed_over: set[int] | None = None
    ) -> JobRecord | None:
        """Take the oldest job that waits, is not paused and fits. None if there is none, or the gang is asked to end. A
        job that cannot be read fails.

        Args:
            fits: whether the gang can run the job; called outside of any transaction.
            passed_over: ids of jobs that do not fit, which are not read again. Kept up to date here, so that a gang
                with long queues of other models beside its own reads each of their jobs once.

        Raises:
            LeaseLost: the gang's lease has expired.
        """
        unfit = set[int]() if passed_over is None else passed_over
        with self._database.reading() as db:
            if self._gang(db, gang) is GangWish.DOWN:
                return None
            held = (State.QUEUED, Wish.PAUSE, Wish.CANCEL)
            select = "SELECT id FROM jobs WHERE state = ? AND wish NOT IN (?, ?) ORDER BY id"
            waiting = [int(row["id"]) for row in db.execute(select, held)]
        unfit.intersection_update(waiting)
        new = [id for id in waiting if id not in unfit]
        for first in range(0, len(new), PAGE):
            for job in self.read(new[first : first + PAGE]):
                if job.damage:
                    self._give_up(job)
                elif not fits(job):
                    unfit.add(job.id)
                elif taken := self._take(gang, job.id):
                    return taken
        return None

    def _give_up(self, job: JobRecord) -> None:
        """Fail a waiting job whose row cannot be read."""
        with self._database.changing() as db:
            if self._find(db, job.id) == job:  # else somebody has mended or cancelled it
                finish_damaged(db, job, self._clock())

    def count_waiting(self) -> int:
        """How many jobs wait, also those that are paused. It reads an index alone."""
        with self._database.reading() as db:
            count: int = db.execute("SELECT count(*) FROM jobs WHERE state = ?", (State.QUEUED,)).fetchone()[0]
            return count

    def _take(self, gang: str, id: int) -> JobRecord | None:
        with self._database.changing() as db:
            self._gang(db, gang)
            taken = db.execute(
                "UPDATE jobs SET state = ?, gang = ?, attempts = attempts + 1, started = ? "
                "WHERE id = ? AND state = ? AND wish = ?",
                (State.RUNNING, gang, self._clock(), id, State.QUEUED, Wish.RUN),
            )
            return self._find(db, id) if taken.rowcount else None  # else it is taken, paused or cancelled

    def requeue_lost(self, lease_seconds: float = LEASE_SECONDS) -> list[JobRecord]:
        """Put the jobs of lost gangs back into the queue; one that was lost too often fails instead.

        A gang is lost when its lease has not been renewed for that long, or at once when its process was on this
        machine and has ended.

        Returns:
            Those jobs, as they are now: queued, failed or cancelled.
        """
        now = self._clock()
        with self._database.changing() as db:
            remove_dead(db, now, lease_seconds)
            names = registered(db)
            lost = [row["id"] for row in self._running(db) if row["gang"] not in names]
            for id in lost:
                count_loss(db, self._find(db, id), now)
            return [self._find(db, id) for id in lost]

    def wish_of(self, id: int, attempt: int) -> Wish:
        """What the user has asked of a job that the caller runs.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        with self._database.reading() as db:
            return self._own(db, id, attempt)

    def progress(self, id: int, attempt: int, progress: JobProgress) -> None:
        """Set how far a job is. Each call is a write to the disk: twice a second is often enough.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        with self._database.changing() as db:
            self._own(db, id, attempt)
            db.execute("UPDATE jobs SET progress = ? WHERE id = ?", (json.dumps(asdict(progress)), id))

    def count_restart(self, id: int, attempt: int, preempted: bool = False) -> None:
        """Count a restart of the job's ranks.

        Args:
            preempted: it was due to a node that was taken away with notice, which is counted apart.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        column = "preemptions" if preempted else "restarts"
        with self._database.changing() as db:
            self._own(db, id, attempt)
            db.execute(f"UPDATE jobs SET {column} = {column} + 1 WHERE id = ?", (id,))

    def finish(self, id: int, attempt: int, state: State, error: str | None = None) -> None:
        """End a job.

        Args:
            state: succeeded, failed or cancelled.
            error: one sentence, where it failed.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        assert state.is_final, state
        with self._database.changing() as db:
            self._own(db, id, attempt)
            finish_job(db, id, state, storable(error), self._clock())

    def release(self, id: int, attempt: int) -> None:
        """Put a job back into the queue, where it waits for the next gang, or until it is unpaused. A job that the user
        has cancelled ends as cancelled.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        with self._database.changing() as db:
            release_job(db, id, self._own(db, id, attempt), self._clock())

    def _running(self, db: sqlite3.Connection) -> list[sqlite3.Row]:
        return db.execute("SELECT id, gang, wish FROM jobs WHERE state = ?", (State.RUNNING,)).fetchall()

    def _own(self, db: sqlite3.Connection, id: int, attempt: int) -> Wish:
        """What is asked of a job of the caller's. Asked many times a second, so the prompt is not read."""
        row = db.execute("SELECT state, wish, attempts FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise LeaseLost(f"attempt {attempt} at job {id} is over: the job is not in the queue any more")
        if row["state"] != State.RUNNING or row["attempts"] != attempt:
            over = f"the job is {row['state']}, {row['attempts']} attempts"
            raise LeaseLost(f"attempt {attempt} at job {id} is over: {over}")
        return job_wish(row["wish"])

    def _gang(self, db: sqlite3.Connection, name: str) -> GangWish:
        row = db.execute("SELECT wish FROM gangs WHERE id = ?", (gang_number(name),)).fetchone()
        if row is None:
            raise LeaseLost(f"{name} is not registered any more: it was silent for too long")
        return gang_wish(row["wish"])
