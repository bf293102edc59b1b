"""The file that `lockstep calibrate` writes: for one way to sample one model, which steps to compute and how the others
are made of them."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dicache.calibration.products import Products


class ComputeBudget(BaseModel):
    """What to do with so many computed steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute: tuple[int, ...]
    damage: float
    """What was expected to be lost: comparable within one file."""
    trials: int = 0
    """Lists that were tried beside the one that was placed; 0 where that is the one."""


class Calibration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[2] = 2
    made_with: dict[str, Any]
    """What a run must have in common with it."""
    versions: dict[str, str]
    prompts: tuple[str, ...]
    """Hashes of the prompts that it has seen."""
    steps: int
    step_sizes: tuple[float, ...]
    """What a unit of error in each step's guided velocity was taken to come to in the end."""
    branches: tuple[str, ...]
    mixing: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]
    """As :class:`dicache.calibration.products.Products` has them."""
    budgets: tuple[ComputeBudget, ...]
    ratios: dict[str, tuple[float, ...]] = {}
    """Of each guidance branch, MagCache's table for this model; files of before have none."""
    polynomials: dict[str, tuple[float, ...]] = {}
    """TeaCache's for this model, by what they look at."""

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
        reason = "is no calibration, or is one of another version of Lockstep"
    raise ValueError(f"cache.calibration {str(path)!r} {reason}: give the file that `lockstep calibrate` wrote.")
