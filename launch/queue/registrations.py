"""The gangs in the queue: registered, with a lease that each renews, and removed."""

from __future__ import annotations

import os
import sqlite3

from launch.queue.lost_gangs import release_job
from launch.queue.processes import own_host, own_pid_namespace, start_ticks
from launch.queue.records import GangState, GangWish, State
from launch.queue.rows import gang_name, gang_number, gang_wish, job_wish, storable
from launch.queue.submissions import Submissions


class LeaseLost(Exception):
    """The caller's lease of a job or a gang has expired, and another gang may have the job."""


class Registrations(Submissions):
    """What gangs tell the queue of themselves; :class:`launch.queue.store.Queue` adds their jobs."""

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

    def _running(self, db: sqlite3.Connection) -> list[sqlite3.Row]:
        return db.execute("SELECT id, gang, wish FROM jobs WHERE state = ?", (State.RUNNING,)).fetchall()

    def _gang(self, db: sqlite3.Connection, name: str) -> GangWish:
        row = db.execute("SELECT wish FROM gangs WHERE id = ?", (gang_number(name),)).fetchone()
        if row is None:
            raise LeaseLost(f"{name} is not registered any more: it was silent for too long")
        return gang_wish(row["wish"])
