"""The file that `lockstep calibrate` writes: which steps to compute and how the others are estimated from them, for one
model and one way to sample it."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dicache.calibration.products import Products
from dicache.request import CacheRequest


class ComputeBudget(BaseModel):
    """Which steps to compute, for one number of computed steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute: tuple[int, ...]
    damage: float
    """The expected loss, comparable within one file."""
    trials: int = 0
    """The number of other lists that were tried in the search for this one; 0 if the placed list was not changed."""


class Calibration(BaseModel):
    """What was measured in uncached runs of some prompts, and what was computed from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[2] = 2
    made_with: dict[str, Any]
    """The model and the sampling that a run must have in common with it."""
    versions: dict[str, str]
    prompts: tuple[str, ...]
    """Hashes of its prompts, by :func:`hash_prompt`."""
    steps: int
    step_sizes: tuple[float, ...]
    """For each step, the assumed error of the final latents for a unit of error in the guided velocity."""
    branches: tuple[str, ...]
    mixing: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]
    """As :class:`dicache.calibration.products.Products` has them."""
    budgets: tuple[ComputeBudget, ...]
    ratios: dict[str, tuple[float, ...]] = {}
    """MagCache's table for this model, for each guidance branch; older files have none."""
    polynomials: dict[str, tuple[float, ...]] = {}
    """TeaCache's polynomials for this model, by the signal that they look at."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        rows = self.steps * len(self.branches)
        if len(self.products) != rows or len(self.step_sizes) != self.steps or len(self.mixing) != len(self.branches):
            raise ValueError("not as many numbers as steps and branches")
        self.as_products()
        return self

    def as_products(self) -> Products:
        return Products(self.branches, self.mixing, self.products)

    def nearest(self, steps_skipped: float) -> ComputeBudget:
        """The budget that skips nearest to that share of the steps."""
        return min(self.budgets, key=lambda budget: abs(1 - len(budget.compute) / self.steps - steps_skipped))


def hash_prompt(prompt: str) -> str:
    """A short hash of a prompt without the white space around it, 16 hexadecimal digits."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()[:16]


def read_calibration(path: Path) -> Calibration:
    """
    Raises:
        ValueError: the file cannot be read, or is not a calibration; one sentence.
    """
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except ValidationError:
        reason = "is no calibration, or is one of another version of Lockstep"
    raise ValueError(f"cache.calibration {str(path)!r} {reason}: give the file that `lockstep calibrate` wrote.")


def read_for(request: CacheRequest) -> Calibration:
    """The calibration that the request names, for a gate or an estimator that follows its plan.

    Raises:
        ValueError: as :func:`read_calibration`; it is of another number of steps, or the model has two transformers.
    """
    assert request.calibration is not None, "checked with the configuration"
    calibration = read_calibration(request.calibration)
    if calibration.steps != request.num_steps:
        raise ValueError(other_steps(request.calibration, calibration.steps, request.num_steps))
    if len(request.span) < request.num_steps:
        raise ValueError(
            "The gate of the cache is calibrated, which is for models with one transformer: use another method."
        )
    return calibration


def other_steps(file: Path, steps: int, num_steps: int) -> str:
    """A sentence for a calibration of another number of steps than the request has."""
    name = str(file)
    return f"cache.calibration {name!r} is of {steps} steps, and this request has {num_steps}: calibrate again for it."
