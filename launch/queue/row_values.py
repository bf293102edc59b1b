"""Values of a row of jobs, read one by one: what is no such value is replaced, and said.

The queue's file outlives versions of this program, and people change it by hand. A value that cannot be read must cost
its own job alone, not the list of all jobs or the gang that looks for the next one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from launch.jobs.options import Options, options_from_json
from launch.queue.records import GangReturn, JobProgress

_LAST_MOMENT = 253402300799.0  # the end of the year 9999, in unix seconds: the last that has a date
_HIGHEST_COUNT = 10**9
_NOWHERE = Path("/dev/null/unknown.mp4")  # nothing can be there, so nothing of anybody's is removed in its name
_NO_OPTIONS = Options("", ("",), output=_NOWHERE)
_NO_CONFIG = {"model": {"path": ""}}

Name = TypeVar("Name", bound=StrEnum)


class RowValues:
    """The values of one row of the table of jobs."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        """
        Args:
            row: value by column; a column that an earlier version did not have counts as NULL.
        """
        self.problems: list[str] = []
        """What could not be read, each as "its COLUMN is ..."."""
        self._row = row

    def name(self, column: str, instead: Name) -> Name:
        """One of the values that ``instead`` belongs to."""
        value: Any = self._row.get(column)
        try:
            return type(instead)(value)
        except ValueError:
            return self._problem(column, f"is {_quoted(value)}", instead)

    def count(self, column: str) -> int:
        value = self._row.get(column)
        if type(value) is int and 0 <= value <= _HIGHEST_COUNT:
            return value
        return self._problem(column, f"is {_quoted(value)}", 0)

    def moment(self, column: str) -> float:
        """Unix seconds of the years 1970 to 9999."""
        if self._row.get(column) is None:
            return self._problem(column, "is missing", 0.0)
        return self.moment_or_none(column) or 0.0

    def moment_or_none(self, column: str) -> float | None:
        value = self._row.get(column)
        if value is None or (_is_number(value) and 0 <= value <= _LAST_MOMENT):
            return value
        return self._problem(column, f"is {_quoted(value)}", None)

    def text(self, column: str) -> str | None:
        """Text of any kind, for people to read."""
        value = self._row.get(column)
        return value if value is None or isinstance(value, str) else _quoted(value)

    def options(self) -> Options:
        try:
            options = options_from_json(_json(self._row.get("options")))
            _check_options(options)
            return options
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return self._problem("options", f"cannot be read ({_reason(error)})", _NO_OPTIONS)

    def config(self) -> Mapping[str, Any]:
        """With a path of the model, which gangs look for; the rest is checked by the gang that takes the job."""
        try:
            config = json.loads(_json(self._row.get("config")))
            if not isinstance(config["model"]["path"], str):
                raise TypeError("model.path is no text")
            return dict(config)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return self._problem("config", f"cannot be read ({_reason(error)})", _NO_CONFIG)

    def progress(self) -> JobProgress | None:
        """None if it cannot be read either: a gang writes it anew twice a second, and nothing depends on it."""
        try:
            progress = JobProgress(**json.loads(_json(self._row.get("progress"))))
            left = progress.seconds_left
            counts = (progress.step, progress.total_steps)
            whole = all(type(count) is int and 0 <= count <= _HIGHEST_COUNT for count in counts)
            known = isinstance(progress.phase, str) and (left is None or (_is_number(left) and left <= _LAST_MOMENT))
            return progress if whole and known and isinstance(progress.actions, list) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def returns(self) -> Sequence[GangReturn]:
        """None of them if they cannot be read."""
        try:
            returns = [GangReturn(**each) for each in json.loads(_json(self._row.get("returns") or "[]"))]
            whole = all(
                _is_number(each.at) and isinstance(each.gang + each.host + each.reason, str) for each in returns
            )
            return returns if whole else []
        except (ValueError, TypeError, KeyError, RecursionError):
            return []

    def _problem(self, column: str, what: str, instead: Any) -> Any:
        self.problems.append(f"its {column} {what}")
        return instead


def is_moment(value: Any) -> bool:
    """Whether it is a finite number of unix seconds."""
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _json(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()  # ValueError for bytes that are not UTF-8, which a connection hands on as lone surrogates
    return value


def _check_options(options: Options) -> None:
    """
    Raises:
        ValueError, TypeError: a value is of another type, or a path cannot be one.
    """
    if len(options.prompts) != 1 or not isinstance(options.prompts[0], str) or len(options.seeds) != 1:
        raise ValueError("one prompt and one seed are expected")
    if type(options.seeds[0]) is not int or not isinstance(options.config + options.negative_prompt, str):
        raise TypeError("seeds, config or negative_prompt")
    paths = (options.image, options.last_image, options.latents, options.report_path)
    if any("\0" in str(path) for path in (*paths, options.video_path.with_suffix(".checkpoint"))):
        raise ValueError("a path holds a null character")


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
