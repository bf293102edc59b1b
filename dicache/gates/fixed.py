"""The gate of schedules that are known before the run: an interval, a list of steps, or a replayed report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote
from dicache.request import CacheRequest
from dicache.settings import ListOf
from dicache.steps import History, Lane, Step
from dicache.sums import Sum

StepIndex = Annotated[int, Field(ge=0)]


class IntervalSettings(GateSettings):
    """``cache.gate`` that computes at equal distances."""

    name: Literal["interval"] = "interval"
    interval: int = Field(2, ge=1, description="Compute every n-th step after the warm-up.")
    compute_steps: ListOf[StepIndex] | None = Field(
        None, description="Compute exactly these steps and each expert's first, whatever the interval."
    )
    shared_keys: ClassVar[frozenset[str]] = frozenset({"quality", "warmup_ratio", "warmup_steps"})
    method_keys: ClassVar[frozenset[str]] = frozenset({"interval", "compute_steps"})
    how_much_keys: ClassVar[frozenset[str]] = method_keys

    def recommended(self) -> Mapping[str, Any]:
        return {"warmup_ratio": 0.0}

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        if self.compute_steps is not None:
            return _listed(self.compute_steps, request)
        # counted from the last step of the warm-up, as TaylorSeer does
        span, warmup_steps = request.span, request.warmup_steps
        compute = {*span[:warmup_steps], *span[max(warmup_steps, 1) - 1 :: self.interval]}
        return FixedGate(dict.fromkeys(request.lanes, frozenset(span) - compute))

    def warmup_steps(self, request: CacheRequest) -> int:
        return request.warmup_steps if self.compute_steps is None else 0


class ListSettings(GateSettings):
    """``cache.gate`` that computes the listed steps."""

    name: Literal["list"] = "list"
    compute_steps: ListOf[StepIndex] = Field(description="Compute exactly these steps and each expert's first.")
    shared_keys: ClassVar[frozenset[str]] = frozenset()
    method_keys: ClassVar[frozenset[str]] = frozenset({"compute_steps"})
    how_much_keys: ClassVar[frozenset[str]] = method_keys

    @model_validator(mode="before")
    @classmethod
    def _has_a_list(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("compute_steps") is None:
            raise ValueError(
                "cache.gate is list, but there is no list: give cache.gate.compute_steps, or use interval."
            )
        return given

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        return _listed(self.compute_steps, request)

    def warmup_steps(self, request: CacheRequest) -> int:
        return 0


@dataclass(frozen=True)
class FixedGate:
    """Skips the listed steps of each lane, whatever the data. It measures nothing."""

    skips: Mapping[Lane, frozenset[int]]
    """Indices of the steps to skip. A lane that is not listed is never skipped."""
    sums: ClassVar[tuple[Sum, ...]] = ()

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return step.index in self.skips.get(lane, ())

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        return Vote(skip=True)


def _listed(compute_steps: tuple[int, ...], request: CacheRequest) -> FixedGate:
    """Computes those steps. The first step of a span is computed as well: there is nothing to estimate it from."""
    last = max(compute_steps, default=0)
    if last >= request.num_steps:
        raise ValueError(
            f"cache.gate.compute_steps names step {last}, but the last step of this request is "
            f"{request.num_steps - 1}: leave it out."
        )
    return FixedGate(dict.fromkeys(request.lanes, frozenset(request.span) - frozenset(compute_steps)))
