"""Jobs and gangs of the queue as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.jobs.options import Options

if TYPE_CHECKING:
    from launch.jobs.config import JobConfig


class State(StrEnum):
    """The state of a job: queued -> running -> one of the other three; back to queued if its gang gives it back."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


class Wish(StrEnum):
    """What the user has asked of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class GangState(StrEnum):
    """What a gang does."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"


class GangWish(StrEnum):
    """What the user has asked of a gang."""

    RUN = "run"
    DOWN = "down"


UNKNOWN = "unknown"
"""The action of a step that was not reported, since the ranks were lost before they could."""
_LETTERS = {"warmup": "w", "compute": "c", "skip": "s", UNKNOWN: "?"}
_ACTIONS = {letter: action for action, letter in _LETTERS.items()}


def timeline_of(actions: Iterable[str]) -> str:
    """One letter for each denoise step: w for a warm-up, c for a computed step, s for a skipped one, ? for UNKNOWN.

    Args:
        actions: those of ``engine.progress.Progress.step``, or UNKNOWN.
    """
    return "".join(_LETTERS[action] for action in actions)


@dataclass(frozen=True)
class JobProgress:
    """How far a job is, or was when it was last recorded."""

    phase: str
    """As the ranks name it: "load", "denoise step 3", ..."""
    step: int = 0
    """Number of denoise steps that are done."""
    total_steps: int = 0
    timeline: str = ""
    """As of :func:`timeline_of`."""
    seconds_left: float | None = None
    """Of denoising, where it can be estimated."""

    @property
    def actions(self) -> list[str]:
        """The actions of the timeline, as given to :func:`timeline_of`."""
        return [_ACTIONS[letter] for letter in self.timeline]

    @property
    def skipped(self) -> int:
        """Number of skipped steps."""
        return self.timeline.count(_LETTERS["skip"])

    @property
    def skipped_share(self) -> float:
        """Share of the timeline's steps that were skipped; 0 before the first step."""
        return self.skipped / len(self.timeline) if self.timeline else 0.0


@dataclass(frozen=True)
class GangReturn:
    """That a gang gave a job back, since its machine failed."""

    gang: str
    host: str
    at: float
    """Unix seconds."""
    reason: str


@dataclass(frozen=True)
class NewJob:
    """One video to make, checked, to be submitted to the queue."""

    options: Options
    """With one prompt, one seed, absolute paths and no overrides, which are in ``config``."""
    config: Mapping[str, Any]
    """As of ``JobConfig.model_dump(mode="json")``, with ``model.path`` as it was given."""


@dataclass(frozen=True)
class JobRecord:
    """A job as it was when it was read. Times are unix seconds."""

    id: int
    state: State
    wish: Wish
    options: Options
    config: Mapping[str, Any]
    submitted: float
    started: float | None  # the newest attempt; None while the job waits
    ended: float | None
    attempts: int  # how often a gang took it; also the number of the newest attempt
    losses: int  # attempts that ended because the gang was lost
    restarts: int  # of the gang's ranks during the job
    preemptions: int  # restarts because a node was taken away with notice
    error: str | None
    gang: str | None  # of the newest attempt; None while the job waits
    progress: JobProgress | None
    returns: Sequence[GangReturn] = ()  # the oldest first
    kept: str | None = None  # what a failed job has left, and where
    damage: str | None = None  # what of its row cannot be read, and has been replaced; no gang can run it then

    @property
    def parsed_config(self) -> JobConfig:
        """
        Raises:
            InvalidInput: the job was submitted to a version of Lockstep with other keys.
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
        """The path of the video."""
        return self.options.video_path

    @property
    def model(self) -> str:
        """The path or hub id of the model, as it was given."""
        return str(self.config["model"]["path"])

    @property
    def max_losses(self) -> int:
        """How many gangs may be lost while they run the job before it fails as the likely cause."""
        ray = self.config.get("ray")
        restarts = ray.get("max_restarts") if isinstance(ray, dict) else None
        return 1 + (restarts if type(restarts) is int else 0)

    @property
    def described_state(self) -> str:
        """The state in words, with what the user has asked where that is not done yet."""
        if self.damage:
            return "damaged"
        if self.wish is Wish.PAUSE and self.state is State.QUEUED:
            return "queued (paused)"
        asked = {Wish.PAUSE: " (pausing)", Wish.CANCEL: " (cancelling)"}
        return self.state.value + (asked.get(self.wish, "") if self.state is State.RUNNING else "")


@dataclass(frozen=True)
class GangRecord:
    """A gang that serves the queue."""

    name: str
    host: str
    pid: int  # of its server
    ranks: int
    model: str  # model.path of its configuration, as it was given
    state: GangState
    wish: GangWish
    registered: float  # unix seconds
    beat: float  # unix seconds; when its lease was last renewed
    error: str | None
    alive: bool  # not lost, as of ``lost_gangs.is_lost``
