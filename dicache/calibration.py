"""The file that `lockstep calibrate` writes: for one way to sample one model, which steps to compute and how the others
are made of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dicache.estimators import Estimate
from dicache.steps import History, Step
from dicache.sums import Sum


class Budget(BaseModel):
    """What to do with so many computed steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute: tuple[int, ...]
    weights: dict[int, tuple[float, ...]]
    """Of each skipped step, by the computed steps before it, newest first."""
    damage: float
    """What was expected to be lost, in the sampler's metric: comparable within one file."""


class Calibration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1] = 1
    made_with: dict[str, Any]
    """What a run must have in common with it."""
    versions: dict[str, str]
    prompts: tuple[str, ...]
    """Hashes of the prompts that it has seen."""
    steps: int
    budgets: tuple[Budget, ...]
    ratios: dict[str, tuple[float, ...]] = {}
    """Of each guidance branch, MagCache's table for this model; files of before have none."""
    polynomials: dict[str, tuple[float, ...]] = {}
    """TeaCache's for this model, by what they look at."""

    def nearest(self, steps_skipped: float) -> Budget:
        """The budget that skips nearest to that share of the steps."""
        return min(self.budgets, key=lambda budget: abs(1 - len(budget.compute) / self.steps - steps_skipped))


def hash_prompt(prompt: str) -> str:
    """By which a calibration remembers what it has seen."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()[:16]


def read_calibration(path: Path) -> Calibration:
    """
    Raises:
        ValueError: it cannot be read, or is none; one sentence.
    """
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except ValidationError:
        reason = "is no calibration"
    raise ValueError(f"cache.calibration {str(path)!r} {reason}: give the file that `lockstep calibrate` wrote.")


@dataclass(frozen=True)
class Fitted:
    """Weights of the computed steps' velocities that were fitted for this very step (L2P, arXiv 2604.26365, in its
    step form; :func:`dicache.placement.place_steps`).

    They hold for the list that they were fitted with: where a rule has had another step computed, it is reuse.
    """

    weights: Mapping[int, tuple[float, ...]]
    compute: tuple[int, ...]
    depth: ClassVar[int] = 2
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        weights = self.weights.get(step.index, ())
        fitted_to = [index for index in reversed(self.compute) if index < step.index][: len(weights)]
        newest = [past.index for past in reversed(history.computed)][: len(weights)]
        return Estimate(weights if weights and newest == fitted_to else (1.0,))
