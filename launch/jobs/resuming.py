"""Whether a run goes on with what an earlier one has left: what the user asks for, and what the environment tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Resume(StrEnum):
    """What becomes of the state that an earlier run of a job has left. The first three are values of ``--resume``."""

    AUTO = "auto"
    """Go on if it is this job's; else begin anew, and keep it beside."""
    NEVER = "never"
    """Begin anew, and keep it beside."""
    ONLY = "only"
    """Go on, or refuse to run where there is nothing to go on from."""
    FOLDER = "folder"
    """Go on with whatever is in the folder, or begin there. It was named, so it must be this job's."""
    REFUSE = "refuse"
    """Refuse to run if there is any: the user is to decide."""


@dataclass(frozen=True)
class _Counter:
    """A variable that tells a process how often its job was started, and its value at the first start."""

    variable: str
    first: int
    beside: str = ""
    """Another variable without which this one is not the scheduler's."""


_COUNTERS = (
    _Counter("TORCHELASTIC_RESTART_COUNT", 0, "TORCHELASTIC_RUN_ID"),  # torchrun --max-restarts
    _Counter("SLURM_RESTART_COUNT", 0, "SLURM_JOB_ID"),
    _Counter("RESTARTED", 0, "SGE_TASK_ID"),  # Grid Engine; 1 or 2
    _Counter("AWS_BATCH_JOB_ATTEMPT", 1),
    _Counter("BATCH_TASK_RETRY_ATTEMPT", 0),  # Google Cloud Batch
    _Counter("CLOUD_RUN_TASK_ATTEMPT", 0),
    _Counter("FLYTE_ATTEMPT_NUMBER", 0),
)
_LSF = "LSB_RESTART"  # Y, or not there


def known_restart(environment: Mapping[str, str]) -> str | None:
    """How the environment tells that this command has run before: "SLURM_RESTART_COUNT is 1"; None if it does not.

    Torchrun, Slurm, LSF, Grid Engine and the batch services of AWS and Google say so. PBS and Kubernetes do not.
    """
    for counter in _COUNTERS:
        text = environment.get(counter.variable, "")
        if text.isdecimal() and int(text) > counter.first and (not counter.beside or counter.beside in environment):
            return f"{counter.variable} is {int(text)}"
    if environment.get(_LSF, "").upper() == "Y":
        return f"{_LSF} is Y"
    return None


def choose_resume(asked: Resume | None, environment: Mapping[str, str]) -> Resume:
    """What was asked for; else ``AUTO`` where a restart is known, and ``REFUSE`` elsewhere."""
    return asked or (Resume.AUTO if known_restart(environment) else Resume.REFUSE)
