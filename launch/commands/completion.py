"""What the shell offers on a tab: files, keys, methods, jobs and gangs. Quick, and silent whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import typer
from pydantic import BaseModel

from engine.config import section_models
from launch.queue.records import GangRecord, JobRecord, State
from launch.queue.state_folder import state_folder
from launch.queue.submissions import Submissions

Offer = tuple[str, str]
"""A word, and what it is."""
Record = TypeVar("Record")
_MOST_JOBS = 50


def config_files(incomplete: str) -> list[str]:
    """YAML files, and the folders on the way to them."""
    return _files(incomplete, lambda path: path.suffix in (".yaml", ".yml"))


def video_files(incomplete: str) -> list[str]:
    """Videos, and the folders on the way to them."""
    return _files(incomplete, lambda path: path.suffix == ".mp4")


def checkpoint_folders(incomplete: str) -> list[str]:
    """Folders from which a run can be resumed, and those on the way to them."""
    return _files(incomplete, lambda path: path.suffix == ".checkpoint" and path.is_dir())


def keys(incomplete: str) -> list[Offer]:
    """Configuration keys, up to their equals sign."""
    from launch.jobs.config import JobConfig

    offered = dict(reversed(list(_keys(JobConfig))))  # gates share keys
    return [(f"{key}=", offered[key]) for key in sorted(offered) if key.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Names of cache methods, after those that stand before the last comma."""
    from dicache.pairs import PAIRS

    before, comma, begun = incomplete.rpartition(",")
    named = before.split(",")
    return [f"{before}{comma}{name}" for name in PAIRS if name.startswith(begun) and name not in named]


def resume_choices(incomplete: str) -> list[str]:
    return [choice for choice in ("auto", "never", "only") if choice.startswith(incomplete)]


def any_jobs(context: typer.Context, incomplete: str) -> list[Offer]:
    """The newest jobs."""
    return _jobs(context, incomplete, State)


def unfinished_jobs(context: typer.Context, incomplete: str) -> list[Offer]:
    """Jobs that wait or run."""
    return _jobs(context, incomplete, [state for state in State if not state.is_final])


def running_jobs(context: typer.Context, incomplete: str) -> list[Offer]:
    """Jobs that run, or else those that wait."""
    return _jobs(context, incomplete, [State.RUNNING]) or unfinished_jobs(context, incomplete)


def gangs(context: typer.Context, incomplete: str) -> list[Offer]:
    """Gangs that are up."""
    found: list[GangRecord] = _ask(context, lambda queue: queue.gangs())
    return [(gang.name, gang.state.value) for gang in found if gang.name.startswith(incomplete)]


def _jobs(context: typer.Context, incomplete: str, states: Iterable[State]) -> list[Offer]:
    found: list[JobRecord] = _ask(context, lambda queue: queue.read(queue.newest(_MOST_JOBS, list(states))))
    return [
        (str(job.id), f"{job.described_state}: {job.video.name}")
        for job in reversed(found)
        if str(job.id).startswith(incomplete)
    ]


def _ask(context: typer.Context, ask: Callable[[Submissions], list[Record]]) -> list[Record]:
    given = context.params.get("state")
    try:
        return ask(Submissions(state_folder(Path(given) if given else None), wait_seconds=0.5))
    except Exception:  # a line about the queue would be taken for something that is offered
        return []


def _files(incomplete: str, fits: Callable[[Path], bool]) -> list[str]:
    folder, slash, begun = incomplete.rpartition("/")
    found = []
    try:
        for path in sorted(Path(folder or slash or ".").expanduser().iterdir()):
            if path.name.startswith(begun) and (begun.startswith(".") or not path.name.startswith(".")):
                if fits(path):
                    found.append(f"{folder}{slash}{path.name}")
                elif path.is_dir():
                    found.append(f"{folder}{slash}{path.name}/")
    except (OSError, RuntimeError, ValueError):
        pass
    return found


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[Offer]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        sections = [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else section_models(kind)
        for inner in sections:
            yield from _keys(inner, f"{prefix}{name}.")
        if not sections:
            yield f"{prefix}{name}", (field.description or "").partition(".")[0].partition(";")[0]
