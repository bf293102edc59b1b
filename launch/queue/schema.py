"""The tables of the queue, and how a file of an earlier version becomes one of this version."""

from __future__ import annotations

import sqlite3
import uuid

VERSION = 2

_TABLES = """
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
)"""

# What each version has more than the one before it. Of jobs: `returns`, JSON, the gangs that gave it back since their
# machine failed; `kept`, what a failed one has left, and where.
_ADDED = {
    2: """
ALTER TABLE jobs ADD COLUMN returns TEXT;
ALTER TABLE jobs ADD COLUMN kept TEXT;
CREATE TABLE about (identity TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS outputs_by_job ON outputs (job)"""
}


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the tables; 0 for a file without tables, -1 for one with tables that are not ours."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return -1 if tables and version == 0 else version


def bring_up_to_date(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables, or those that a version from 1 on lacks. Inside a transaction."""
    if version == 0:
        _run(connection, _TABLES)
        version = 1
    for newer in range(version + 1, VERSION + 1):
        _run(connection, _ADDED[newer])
    # a random name: a gang notices by it that the file is not the one in which it has registered
    connection.execute("INSERT INTO about SELECT ? WHERE NOT EXISTS (SELECT * FROM about)", (uuid.uuid4().hex,))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def identity_of(connection: sqlite3.Connection) -> str:
    """The random name that the file was given when it was made."""
    row = connection.execute("SELECT identity FROM about").fetchone()
    return str(row[0]) if row else ""


def _run(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):  # executescript would commit the transaction first
        connection.execute(statement)
