"""Jobs and gangs as rows of the queue's tables."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import replace
from typing import Any

from launch.jobs.options import Options, options_to_json
from launch.queue.records import (
    GangRecord,
    GangState,
    GangWish,
    JobRecord,
    NewJob,
    State,
    Wish,
)
from launch.queue.row_values import RowValues

_PREFIX = "gang-"


def job_values(job: NewJob, submitted: float) -> tuple[Any, ...]:
    """The values of the columns state, wish, options, config, submitted.

    Args:
        submitted: unix seconds.
    """
    return State.QUEUED.value, Wish.RUN.value, options_to_json(job.options), json.dumps(job.config), submitted


def job_record(row: sqlite3.Row) -> JobRecord:
    """The record of a row with all columns of the table of jobs. What cannot be read is replaced, and said in
    ``damage``."""
    values = RowValues(dict(row))
    record = JobRecord(
        id=row["id"],
        state=values.name("state", State.FAILED),
        wish=values.name("wish", Wish.RUN),
        options=values.options(),
        config=values.config(),
        submitted=values.moment("submitted"),
        started=values.moment_or_none("started"),
        ended=values.moment_or_none("ended"),
        attempts=values.count("attempts"),
        losses=values.count("losses"),
        restarts=values.count("restarts"),
        preemptions=values.count("preemptions"),
        error=values.text("error"),
        gang=values.text("gang"),
        progress=values.progress(),
        returns=values.returns(),
        kept=values.text("kept"),
    )
    return replace(record, damage="; ".join(values.problems)) if values.problems else record


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
    values = RowValues(dict(row))
    return GangRecord(
        name=gang_name(row["id"]),
        host=values.text("host") or "",
        pid=values.count("pid"),
        ranks=values.count("ranks"),
        model=values.text("model") or "",
        state=values.name("state", GangState.STARTING),
        wish=gang_wish(row["wish"]),
        registered=values.moment("registered"),
        beat=values.moment("beat"),
        error=values.text("error") or ("; ".join(values.problems) or None),
        alive=alive,
    )


def gang_wish(value: Any) -> GangWish:
    """What is asked of a gang; to go on, where the row does not say."""
    return GangWish.DOWN if value == GangWish.DOWN else GangWish.RUN


def job_wish(value: Any) -> Wish:
    """What is asked of a job; to go on, where the row does not say."""
    return Wish(value) if value in list(Wish) else Wish.RUN


def gang_name(number: int) -> str:
    """The name of the gang with that id in the table."""
    return f"{_PREFIX}{number}"


def gang_number(name: str) -> int:
    """The id of the gang with that name; -1, which no gang has, for any other text."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if name.startswith(_PREFIX) and digits.isdecimal() else -1
