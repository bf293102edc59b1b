"""Jobs and gangs as rows of the queue's tables."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any

from launch.jobs.options import Options, options_from_json, options_to_json
from launch.queue.records import (
    GangRecord,
    GangReturn,
    GangState,
    GangWish,
    JobProgress,
    JobRecord,
    NewJob,
    State,
    Wish,
)

_PREFIX = "gang-"


def job_values(job: NewJob, submitted: float) -> tuple[Any, ...]:
    """The values of the columns state, wish, options, config, submitted.

    Args:
        submitted: unix seconds.
    """
    return State.QUEUED.value, Wish.RUN.value, options_to_json(job.options), json.dumps(job.config), submitted


def job_record(row: sqlite3.Row) -> JobRecord:
    """The record of a row with all columns of the table of jobs."""
    values = dict(row)
    progress = values["progress"] and JobProgress(**json.loads(values["progress"]))
    return JobRecord(
        **values
        | {
            "state": State(values["state"]),
            "wish": Wish(values["wish"]),
            "options": options_from_json(values["options"]),
            "config": json.loads(values["config"]),
            "progress": progress,
            "returns": [GangReturn(**each) for each in json.loads(values["returns"] or "[]")],
        }
    )


def output_paths(options: Options) -> list[bytes]:
    """Every file and folder that a job writes, with symbolic links resolved."""
    video = options.video_path
    paths = [video, options.report_path, options.latents, video.with_suffix(".checkpoint")]
    return [os.fsencode(os.path.realpath(path)) for path in paths if path is not None]


def storable(text: str | None) -> str | None:
    """The text without lone surrogates, which stand for bytes that are not UTF-8 and which SQLite refuses."""
    return text and text.encode("utf-8", "backslashreplace").decode("utf-8")


def gang_record(row: sqlite3.Row, alive: bool) -> GangRecord:
    """The record of a row with all columns of the table of gangs.

    Args:
        alive: whether the gang is not lost.
    """
    return GangRecord(
        name=gang_name(row["id"]),
        host=row["host"],
        pid=row["pid"],
        ranks=row["ranks"],
        model=row["model"],
        state=GangState(row["state"]),
        wish=GangWish(row["wish"]),
        registered=row["registered"],
        beat=row["beat"],
        error=row["error"],
        alive=alive,
    )


def gang_name(number: int) -> str:
    """The name of the gang with that id in the table."""
    return f"{_PREFIX}{number}"


def gang_number(name: str) -> int:
    """The id of the gang with that name; -1, which no gang has, for any other text."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if name.startswith(_PREFIX) and digits.isdecimal() else -1
