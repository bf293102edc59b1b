"""The gate of TeaCache (Liu et al., arXiv 2411.19108): a polynomial of the change of the timestep's embedding or of the
input that it modulates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dicache.calibration.numbers import calibrated_polynomial
from dicache.estimators.estimator import Estimate, Estimator
from dicache.gates.gate import Gate, GateSettings, Vote, relative
from dicache.published.choice import choose, is_published
from dicache.published.polynomials import POLYNOMIALS, RETENTION_POLYNOMIALS, Polynomial
from dicache.request import CacheRequest
from dicache.settings import ListOf
from dicache.steps import History, Lane, Step
from dicache.sums import AbsoluteSum, Operand, Sum


class TeaCacheSettings(GateSettings):
    """``cache.gate`` of TeaCache."""

    name: Literal["teacache"] = "teacache"
    published: str | None = Field(None, description="Model whose published polynomial is used, where several fit.")
    use_ret_steps: bool = Field(
        False, description="The authors' other variant for Wan: more steps computed first, and other polynomials."
    )
    polynomial: ListOf[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        None, min_length=1, description="Coefficients of your own, highest power first."
    )
    signal: Literal["timestep_embedding", "timestep_modulation", "modulated_input"] | None = Field(
        None, description="What a polynomial of your own looks at."
    )

    @model_validator(mode="after")
    def _own_polynomial_is_whole(self) -> Self:
        if (self.polynomial is None) != (self.signal is None):
            missing, given = ("signal", "polynomial") if self.signal is None else ("polynomial", "signal")
            raise ValueError(
                f"cache.gate.{given} is {getattr(self, given)}, but cache.gate.{missing} is left out: a polynomial of "
                "your own needs both."
            )
        return self

    def recommended(self) -> Mapping[str, Any]:
        steps = 5 if self.use_ret_steps else 1
        return {"threshold": 0.1, "warmup_ratio": None, "warmup_steps": steps, "force_last": not self.use_ret_steps}

    def numbers(self) -> Mapping[str, object] | None:
        return self._polynomials if self.polynomial is None else None

    def build(self, request: CacheRequest, estimator: Estimator) -> Gate:
        return TeaCacheGate(request.threshold, self._polynomial(request))

    @property
    def _polynomials(self) -> Mapping[str, Polynomial]:
        return RETENTION_POLYNOMIALS if self.use_ret_steps else POLYNOMIALS

    def _polynomial(self, request: CacheRequest) -> Polynomial:
        if self.polynomial is not None and self.signal is not None:
            return Polynomial(self.signal, self.polynomial)
        table, names = self._polynomials, request.published
        if request.calibration is not None and not is_published(table, self.published, names):
            return calibrated_polynomial(request.calibration, self.use_ret_steps)
        return choose(self.name, "polynomials", table, self.published, names, own="cache.gate.polynomial")[1]


@dataclass(frozen=True)
class TeaCacheGate:
    """TeaCache (``teacache_generate.py`` and ``teacache_sample_video.py`` of ali-vilab/TeaCache).

    f(Σ|m - m_prev| / Σ|m_prev|) accumulates over skipped steps, where m is the signal, m_prev that of the previous
    step, computed or skipped, and f the polynomial. A step is skipped while the sum is under the threshold.
    """

    threshold: float
    polynomial: Polynomial

    @property
    def change(self) -> AbsoluteSum:
        signal = self.polynomial.signal
        return AbsoluteSum(Operand(signal, 0), Operand(signal, 1))

    @property
    def size(self) -> AbsoluteSum:
        return AbsoluteSum(Operand(self.polynomial.signal, 1))

    @property
    def sums(self) -> tuple[Sum, ...]:
        return (self.change, self.size)

    def may_skip(self, step: Step, lane: Lane) -> bool:
        return True

    def vote(self, step: Step, history: History, sums: Mapping[Sum, float], estimate: Estimate) -> Vote:
        change = relative(sums[self.change], sums[self.size])
        indicator = self.polynomial(change) if change < float("inf") else change  # else inf - inf
        accumulated = history.accumulated + indicator
        return Vote(accumulated < self.threshold, indicator, accumulated)
