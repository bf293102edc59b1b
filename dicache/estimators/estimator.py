"""The interface of an estimator: it combines residuals of computed steps into an estimate of a skipped one.

Every estimate has the form anchor + Σ cᵢ r₋ᵢ, where r₋₁ is the residual of the newest computed step, r₋₂ that of the
one before, and so on. An estimator only returns the coefficients cᵢ. Each published rule has a module of its own in
this package.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from pydantic import Field, model_validator

from dicache.pairs import Anchor
from dicache.request import CacheRequest
from dicache.settings import Settings
from dicache.steps import History, Step
from dicache.sums import Sum


@dataclass(frozen=True)
class Estimate:
    """The coefficients of an estimate."""

    coefficients: tuple[float, ...]
    """Weights of r₋₁, r₋₂, …: as many as there are computed steps to use, at most the estimator's depth."""
    gamma: float | None = None
    """Alignment of DiCache, for the report; None for estimators without one."""


class Estimator(Protocol):
    """An estimator is a frozen value without state of its own, as a gate is."""

    @property
    def sums(self) -> tuple[Sum, ...]:
        """What :meth:`estimate` needs to have measured."""
        ...

    @property
    def depth(self) -> int:
        """The largest number of residuals that it combines."""
        ...

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        """Weigh the residuals for a step that may be skipped. At least one step has been computed before.

        Args:
            sums: the values of all sums of the method whose operands exist at this step.
        """
        ...


class EstimatorSettings(Settings):
    """Base of the settings of an estimator, the section ``cache.estimator``, from which the estimator is built."""

    name: str
    anchor: ClassVar[Anchor | None] = None
    """What its estimates have to be added to; None if that is the method's choice."""
    weights_add_up: ClassVar[bool] = True
    """Whether its coefficients add up to 1 at every step."""

    @abstractmethod
    def build(self, request: CacheRequest) -> Estimator:
        """
        Raises:
            ValueError: the settings do not fit the request, or what they need is not there; one sentence.
        """


class AlignedSettings(EstimatorSettings):
    """Base for the estimators that measure a gamma on the probe and clip it."""

    gamma_min: float = Field(
        1.0, ge=0, le=100, allow_inf_nan=False, description="Least gamma: 1 never steps back from reuse."
    )
    gamma_max: float = Field(
        2.0, ge=0, le=100, allow_inf_nan=False, description="Largest gamma: bounds how far it extrapolates."
    )
    shared_keys: ClassVar[frozenset[str]] = frozenset({"probe_depth"})

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.gamma_max < self.gamma_min:
            raise ValueError(
                f"cache.estimator.gamma_max is {self.gamma_max}, which is below cache.estimator.gamma_min "
                f"{self.gamma_min}: raise gamma_max or lower gamma_min."
            )
        return self
