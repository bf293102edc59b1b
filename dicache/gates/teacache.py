"""When, as TeaCache says (Liu et al., arXiv 2411.19108): a polynomial of how much the timestep, or the input that it
modulates, has changed."""

from collections.abc import Mapping
from dataclasses import dataclass

from dicache.estimators.estimator import Estimate
from dicache.gates.gate import Vote, relative
from dicache.published.polynomials import Polynomial
from dicache.steps import History, Lane, Step
from dicache.sums import AbsoluteSum, Operand, Sum


@dataclass(frozen=True)
class TeaCacheGate:
    """TeaCache (``teacache_generate.py`` and ``teacache_sample_video.py`` of ali-vilab/TeaCache).

    f(Σ|m - m_prev| / Σ|m_prev|) accumulates over skipped steps, m_prev being the signal m of the previous step,
    computed or skipped, and f the polynomial; a step is skipped while the accumulated value is under the threshold.
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
