"""What the queue knows of a job and of a gang, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.jobs.options import Options

if TYPE_CHECKING:
    from launch.jobs.config import JobConfig


class State(StrEnum):
    """Where a job is: queued -> running -> one of the other three; and back to queued where a gang lets go of it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


class Wish(StrEnum):
    """What the user wants of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class GangState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"


class GangWish(StrEnum):
    """What the user wants of a gang."""

    RUN = "run"
    DOWN = "down"


_LETTERS = {"warmup": "w", "compute": "c", "skip": "s"}
_ACTIONS = {letter: action for action, letter in _LETTERS.items()}


def timeline_of(actions: Iterable[str]) -> str:
    """One letter for each denoise step: w for a warm-up, c for a computed step, s for a skipped one.

    Args:
        actions: as ``engine.progress.Progress.step`` is told them.
    """
    return "".join(_LETTERS[action] for action in actions)


@dataclass(frozen=True)
class JobProgress:
    """How far a running job is, or how far it was when it was last told."""

    phase: str  # as the ranks name it: "load", "denoise step 3", ...
    step: int = 0  # denoise steps that are done
    total_steps: int = 0
    timeline: str = ""  # of ``timeline_of``
    seconds_left: float | None = None

    @property
    def actions(self) -> list[str]:
        """The timeline as words again."""
        return [_ACTIONS[letter] for letter in self.timeline]

    @property
    def skipped(self) -> int:
        """Steps that were skipped."""
        return self.timeline.count(_LETTERS["skip"])

    @property
    def skipped_share(self) -> float:
        """Of the steps in the timeline; 0 before there is one."""
        return self.skipped / len(self.timeline) if self.timeline else 0.0


@dataclass(frozen=True)
class NewJob:
    """One video to make, checked, on its way into the queue."""

    options: Options  # one prompt, one seed, absolute paths, no overrides: they are in config
    config: Mapping[str, Any]  # of ``JobConfig.model_dump(mode="json")``, its model.path as it was given


@dataclass(frozen=True)
class JobRecord:
    """A job as it is at the moment. Times are unix seconds."""

    id: int
    state: State
    wish: Wish
    options: Options
    config: Mapping[str, Any]
    submitted: float
    started: float | None  # of the attempt that runs or ran last; None while the job waits
    ended: float | None
    attempts: int  # times that a gang took it; the number of the attempt that runs
    losses: int  # of these, how many ended with the gang
    restarts: int  # of the gang's ranks while it ran
    preemptions: int  # the same, where a node was taken away
    error: str | None
    gang: str | None  # that runs it, or ran it last; None while it waits
    progress: JobProgress | None

    @property
    def parsed_config(self) -> JobConfig:
        """
        Raises:
            InvalidInput: the version of Lockstep that took the job had other keys.
        """
        from pydantic import ValidationError

        from engine.errors import InvalidInput, first_problem
        from launch.jobs.config import JobConfig

        try:
            return JobConfig.model_validate_json(self.config_json, strict=True)
        except ValidationError as error:
            problem = first_problem(error)[1]
            raise InvalidInput(f"Job {self.id} was submitted to another version of Lockstep ({problem}).") from None

    @property
    def config_json(self) -> str:
        """The configuration as JSON, which is also YAML."""
        import json

        return json.dumps(self.config)

    @property
    def prompt(self) -> str:
        return self.options.prompts[0]

    @property
    def video(self) -> Path:
        """Where the video will be."""
        return self.options.video_path

    @property
    def model(self) -> str:
        """The path or hub id of its model, as it was given."""
        return str(self.config["model"]["path"])

    @property
    def max_losses(self) -> int:
        """Gangs that may be lost while they run it, before it counts as the cause."""
        return int(self.config["ray"]["max_restarts"]) + 1

    @property
    def described_state(self) -> str:
        """The state in words, with what the user wants where that is something else."""
        if self.wish is Wish.PAUSE and self.state is State.QUEUED:
            return "queued (paused)"
        asked = {Wish.PAUSE: " (pausing)", Wish.CANCEL: " (cancelling)"}
        return self.state.value + (asked.get(self.wish, "") if self.state is State.RUNNING else "")


@dataclass(frozen=True)
class GangRecord:
    """A gang that serves the queue."""

    name: str
    host: str
    pid: int  # of its driver
    ranks: int
    model: str  # model.path of its configuration, as it was given
    state: GangState
    wish: GangWish
    registered: float  # unix seconds
    beat: float  # unix seconds; when it was last known to live
    error: str | None
    alive: bool  # its process is there, as far as that can be seen from here, and it was not silent for too long
