"""Reading the schedule of an earlier run from its report."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from dicache.steps import Action, Lane

Schedule = dict[Lane, tuple[Action, ...]]


def read_schedule(path: Path, lanes: Sequence[Lane], num_steps: int, span: range) -> Schedule:
    """The action of each lane at each step, as listed in a run report.

    An entry of the report's ``steps`` has ``step``, ``branch``, ``action``, and ``sample`` and ``window`` unless these
    are 0.

    Args:
        span: the steps that will be replayed; what was computed before them is not at hand.

    Raises:
        ValueError: the file is not a run report, its steps are not those of this request, or it skips a step
            before anything was computed.
    """
    try:
        schedule = _schedule(json.loads(path.read_bytes()))
        _check(schedule, lanes, num_steps, span)
    except OSError as error:
        reason = f"cannot be read ({error.strerror}): give the report of a finished run."
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = f"is not JSON ({error}): give the report of a finished run."
    except ValueError as error:
        reason = str(error)
    else:
        return schedule
    raise ValueError(f"cache.replay {str(path)!r} {reason}")


def _schedule(report: Any) -> Schedule:
    entries = report.get("steps") if isinstance(report, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError("has no list of steps: give the report of a finished run.")
    actions: dict[Lane, dict[int, Action]] = {}
    for entry in entries:
        lane, index, action = _parse(entry)
        if index in actions.setdefault(lane, {}):
            raise ValueError(f"lists step {index} of {_name(lane)} twice: remove one of the two.")
        actions[lane][index] = action
    return {lane: _in_order(lane, listed) for lane, listed in actions.items()}


def _parse(entry: Any) -> tuple[Lane, int, Action]:
    match {"sample": 0, "window": 0, "segment": 0, **entry} if isinstance(entry, dict) else entry:
        case {"segment": int(segment)} if segment != 0:
            raise ValueError(
                f"has the entry {entry!r} of segment {segment}, but no method of this version skips more than one "
                "segment by itself: give the report of another run."
            )
        case {
            "step": int(index),
            "sample": int(sample),
            "branch": str(branch),
            "window": int(window),
            "action": "warmup" | "compute" | "skip" as action,
        }:
            return Lane(sample, branch, window), index, action
    raise ValueError(
        f"has the entry {entry!r}: give it a step number, a branch, and one of the actions "
        f"{', '.join(get_args(Action))}."
    )


def _in_order(lane: Lane, listed: dict[int, Action]) -> tuple[Action, ...]:
    missing = set(range(max(listed) + 1)) - set(listed)
    if missing or min(listed) < 0:
        raise ValueError(f"lists the steps {sorted(listed)} of {_name(lane)}: number them from 0, no gaps.")
    return tuple(listed[index] for index in range(len(listed)))


def _check(schedule: Schedule, lanes: Sequence[Lane], num_steps: int, span: range) -> None:
    if set(schedule) != set(lanes):
        raise ValueError(
            f"is of {_names(schedule)}, but this request is of {_names(lanes)}: "
            "use the prompts and guidance of the replayed run."
        )
    for lane, listed in schedule.items():
        if len(listed) != num_steps:
            raise ValueError(
                f"has {len(listed)} steps of {_name(lane)}, but this request has {num_steps}: "
                f"set sampling.steps to {len(listed)}."
            )
        if span and listed[span.start] == "skip":
            raise ValueError(
                f"skips step {span.start} of {_name(lane)}, before anything was computed that it could be estimated "
                f"from: compute step {span.start}."
            )


def _names(lanes: Iterable[Lane]) -> str:
    return ", ".join(sorted(_name(lane) for lane in lanes))


def _name(lane: Lane) -> str:
    window = f" window {lane.window}" if lane.window else ""
    return f"sample {lane.sample} {lane.branch}{window}"
