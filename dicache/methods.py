"""Methods by name: which gate goes with which estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicache.config import CacheConfig
from dicache.estimators import Alignment, Estimator, NoEstimate, Reuse, Taylor
from dicache.gates import FirstBlockGate, FixedGate, Gate, ProbeGate
from dicache.replay import read_schedule
from dicache.steps import Lane
from dicache.sums import Sum


@dataclass(frozen=True)
class Method:
    """When and how, and the number of leading steps at which neither is asked."""

    gate: Gate
    estimator: Estimator
    warmup_steps: int = 0

    @property
    def sums(self) -> tuple[Sum, ...]:
        """Everything measured, each sum once, in an order that is the same on every rank."""
        return tuple(dict.fromkeys((*self.gate.sums, *self.estimator.sums)))

    @property
    def needs_probe(self) -> bool:
        return bool(self.sums) or self.estimator.anchor == "probe"


def build_method(config: CacheConfig, lanes: Sequence[Lane], num_steps: int, span: range) -> Method:
    """The method that ``config`` names; a replayed run's schedule takes the place of its gate.

    Args:
        num_steps: denoise steps of the request.
        span: those at which the method is asked, in a row.

    Raises:
        ValueError: ``config.compute_steps`` or ``config.replay`` does not fit this request.
    """
    method = _named(config, lanes, num_steps, span)
    if config.replay is None:
        return method
    schedule = read_schedule(config.replay, lanes, num_steps, span)
    skips = {lane: frozenset(index for index in span if actions[index] == "skip") for lane, actions in schedule.items()}
    warmup_steps = min(actions[span.start : span.stop].count("warmup") for actions in schedule.values())
    return Method(FixedGate(skips), method.estimator, warmup_steps)


def _named(config: CacheConfig, lanes: Sequence[Lane], num_steps: int, span: range) -> Method:
    warmup_steps = int(config.warmup_ratio * len(span))  # rounded down, as published
    match config.method:
        case "dicache":
            alignment = Alignment(config.gamma_min, config.gamma_max)
            gate = ProbeGate(config.threshold, inclusive=config.at_threshold == "skip")
            return Method(gate, alignment, warmup_steps)
        case "fbcache":
            return Method(FirstBlockGate(config.threshold), Reuse(anchor="probe"), warmup_steps)
        case "interval":
            estimator = Taylor() if config.estimator == "taylor" else Reuse()
            return Method(FixedGate(_skips(config, lanes, num_steps, span)), estimator)
        case "none":
            return Method(FixedGate({}), NoEstimate())


def _skips(config: CacheConfig, lanes: Sequence[Lane], num_steps: int, span: range) -> Mapping[Lane, frozenset[int]]:
    if config.compute_steps is None:
        compute = set(span[:: config.interval])
    else:
        compute = set(config.compute_steps)  # a first step is computed in any case: there is nothing to estimate from
        last = max(config.compute_steps, default=0)
        if last >= num_steps:
            raise ValueError(
                f"cache.compute_steps names step {last}, but the last step of this request is "
                f"{num_steps - 1}: leave it out."
            )
    return dict.fromkeys(lanes, frozenset(span) - compute)
