"""Checks a configuration and its tasks, for videos, sweeps, calibrations, the queue and gangs alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.checks.preflight import Checked, preflight
from engine.models.hub import resolve_model
from engine.request import Task
from launch.jobs.config import JobConfig
from launch.jobs.notes import layout_notes
from launch.process.signals import say
from parallel.place import Place


@dataclass(frozen=True)
class CheckedWork:
    """A configuration and tasks that fit each other, the model and the ranks."""

    given: JobConfig
    """As it was read."""
    tasks: Sequence[Task]
    checked: Checked[JobConfig]

    @property
    def config(self) -> JobConfig:
        """What the engine takes: the model's path is a folder, and nothing is left open."""
        return self.checked.config

    @property
    def notes(self) -> list[str]:
        """Lines for the user, before the work starts: on the layout, on the cache, and on what has no effect."""
        said: list[str] = []
        if self.given.parallel.shard_weights and self.checked.degrees.replica_size == 1:
            said.append(
                "parallel.shard_weights changes nothing here: each replica has one rank, which holds all weights"
            )
        if self.given.parallel.is_auto or self.given.parallel.seeks_replicas:
            said += layout_notes(self.checked.placement)
        return [*said, *(f"cache: {reason}" for reason in self.checked.cache_reasons), *self.checked.notes]


def announce(line: str) -> None:
    """Say something on stderr before there is a display of progress."""
    say(f"lockstep: {line}")


def check_work(
    given: JobConfig, tasks: Sequence[Task], place: Place, announce: Callable[[str], None] = announce
) -> CheckedWork:
    """Find the model, downloading it if need be, check everything that can be checked before weights load, and settle
    what the configuration leaves open.

    Args:
        given: as :func:`launch.jobs.config.load_job_config` returns it.
        tasks: none at all for ranks that will take one request after another.
        place: of this process.
        announce: told in one line when a download begins.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    config = resolve_model(given, announce)
    return CheckedWork(given, tasks, preflight(config, tasks, place))
