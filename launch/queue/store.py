"""The durable queue of jobs: every change is one transaction, so nothing is lost if a process is killed."""

from __future__ import annotations

import json
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
from launch.queue.processes import own_host
from launch.queue.records import GangReturn, GangWish, JobProgress, JobRecord, State, Wish
from launch.queue.registrations import LeaseLost, Registrations
from launch.queue.returns import give_back, is_left_to_others, is_own_return
from launch.queue.rows import job_wish, storable
from launch.queue.submissions import PAGE


class Queue(Registrations):
    """The queue in one state folder, which every process that submits or serves must see. Usable from any thread.

    A job belongs to one gang at most. A gang's calls about a job carry the number of its attempt, and raise
    :class:`LeaseLost` once the job no longer belongs to that attempt. Every method raises
    :class:`launch.queue.trouble.QueueUnusable` where the folder or a file in it cannot be used.
    """

    def claim(
        self, gang: str, fits: Callable[[JobRecord], bool], passed_over: set[int] | None = None
    ) -> JobRecord | None:
        """Take the oldest job that waits, is not paused and fits. None if there is none, or the gang is asked to end. A
        job that cannot be read fails.

        One that this gang gave back is left to others for a while, and taken after all others.

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
        again: list[int] = []
        for first in range(0, len(new), PAGE):
            for job in self.read(new[first : first + PAGE]):
                if job.damage:
                    self._give_up(job)
                elif not fits(job):
                    unfit.add(job.id)
                elif is_own_return(job, gang):
                    again += [] if is_left_to_others(job, gang, self._clock()) else [job.id]
                elif taken := self._take(gang, job.id):
                    return taken
        return next(filter(None, (self._take(gang, id) for id in again)), None)

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

    def finish(self, id: int, attempt: int, state: State, error: str | None = None, kept: str | None = None) -> None:
        """End a job.

        Args:
            state: succeeded, failed or cancelled.
            error: one sentence, where it failed.
            kept: what it has left, where it failed.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        assert state.is_final, state
        with self._database.changing() as db:
            self._own(db, id, attempt)
            finish_job(db, id, state, storable(error), self._clock(), storable(kept))

    def give_back(self, id: int, attempt: int, gang: str, reason: str, kept: str | None = None) -> None:
        """Put a job back that the gang could not run by a fault of its machine. It fails, with all reasons, once three
        gangs have given it back.

        Args:
            kept: what it has left.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        with self._database.changing() as db:
            wish = self._own(db, id, attempt)
            give_back(db, self._find(db, id), wish, GangReturn(gang, own_host(), self._clock(), reason), kept)

    def release(self, id: int, attempt: int) -> None:
        """Put a job back into the queue, where it waits for the next gang, or until it is unpaused. A job that the user
        has cancelled ends as cancelled.

        Raises:
            LeaseLost: the job does not belong to this attempt any more.
        """
        with self._database.changing() as db:
            release_job(db, id, self._own(db, id, attempt), self._clock())

    def _own(self, db: sqlite3.Connection, id: int, attempt: int) -> Wish:
        """What is asked of a job of the caller's. Asked many times a second, so the prompt is not read."""
        row = db.execute("SELECT state, wish, attempts FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise LeaseLost(f"attempt {attempt} at job {id} is over: the job is not in the queue any more")
        if row["state"] != State.RUNNING or row["attempts"] != attempt:
            over = f"the job is {row['state']}, {row['attempts']} attempts"
            raise LeaseLost(f"attempt {attempt} at job {id} is over: {over}")
        return job_wish(row["wish"])
