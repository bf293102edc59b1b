"""Methods by name: which gate goes with which estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dicache.calibration.file import Calibration, read_calibration
from dicache.calibration.numbers import calibrated_polynomial, calibrated_ratios, other_steps
from dicache.config import CacheConfig
from dicache.estimators.adams_bashforth import AdamsBashforth
from dicache.estimators.alignment import Alignment
from dicache.estimators.estimator import Estimator
from dicache.estimators.fitted import Fitted
from dicache.estimators.foca import FoCa
from dicache.estimators.hermite import Hermite
from dicache.estimators.none import NoEstimate
from dicache.estimators.projection import Projection
from dicache.estimators.reuse import Reuse
from dicache.estimators.ridge import Ridge
from dicache.estimators.taylor import Taylor
from dicache.gates.calibrated import CalibratedGate
from dicache.gates.easycache import EasyCacheGate
from dicache.gates.first_block import FirstBlockGate
from dicache.gates.fixed import FixedGate
from dicache.gates.gate import Gate
from dicache.gates.innovation import InnovationGate
from dicache.gates.magcache import MagCacheGate
from dicache.gates.probe import ProbeGate
from dicache.gates.teacache import TeaCacheGate
from dicache.presets import takes_calibration
from dicache.published.conditions import MEASURED_AT
from dicache.published.magnitudes import TABLES, Table, interpolate_nearest
from dicache.published.polynomials import POLYNOMIALS, RETENTION_POLYNOMIALS, Polynomial
from dicache.replay import read_schedule
from dicache.steps import Lane
from dicache.sums import Operand, StepSignal, Sum
from dicache.trajectory import VELOCITY_ANCHORS, Anchor

_ANCHORS: dict[str, Anchor] = {
    "fbcache": "probe",
    "dbcache": "probe",
    "easycache": "latents",
    "taylorseer": "nothing",
    "abcache": "nothing",
    "innovation": "nothing",  # so that its velocities can follow a corrector
}
"""Where a method does not add what it estimates to the input of block 0."""

_Published = TypeVar("_Published", Polynomial, Table)


@dataclass(frozen=True)
class Method:
    """When and how, and the number of leading steps at which neither is asked."""

    gate: Gate
    estimator: Estimator
    warmup_steps: int = 0
    anchor: Anchor = "input"
    """What estimates are added to, as in :class:`dicache.trajectory.Trajectory`."""

    @property
    def sums(self) -> tuple[Sum, ...]:
        """Everything measured, each sum once, in an order that is the same on every rank."""
        return tuple(dict.fromkeys((*self.gate.sums, *self.estimator.sums)))

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Everything that the sums look at."""
        return tuple(dict.fromkeys(operand for term in self.sums for operand in term.operands))

    @property
    def needs_probe(self) -> bool:
        return self.anchor == "probe" or any(o.signal in ("probe", "probe_residual") for o in self.operands)

    @property
    def step_signals(self) -> tuple[StepSignal, ...]:
        """What the sums and the anchor look at besides the probe and the input of block 0, at every step."""
        named = {operand.signal for operand in self.operands}
        needs_latents = self.anchor == "latents" or named & {"latents", "computed_latents"}
        others: tuple[StepSignal, ...] = ("timestep_embedding", "timestep_modulation", "modulated_input")
        return (*(signal for signal in others if signal in named), *(("latents",) if needs_latents else ()))

    @property
    def estimates_velocity(self) -> bool:
        """Whether an estimate is the model's output, and not that of all blocks."""
        return self.anchor in VELOCITY_ANCHORS

    @property
    def needs_velocity(self) -> bool:
        """Whether computed steps have to show the model's output."""
        return self.estimates_velocity or any(operand.signal == "velocity" for operand in self.operands)


def build_method(
    config: CacheConfig,
    lanes: Sequence[Lane],
    num_steps: int,
    span: range,
    published: Sequence[str] = (),
    shift: float | None = None,
) -> Method:
    """The method that ``config`` names; a replayed run's schedule takes the place of its gate.

    Args:
        num_steps: denoise steps of the request.
        span: those at which the method is asked, in a row.
        published: the published models that the model may be, by the names in :mod:`dicache.published.polynomials` and
            :mod:`dicache.published.magnitudes`.
        shift: flow shift of the sampler; None for that of the authors of such numbers.

    Raises:
        ValueError: ``config.compute_steps`` or ``config.replay`` does not fit this request, or what its authors
            publish for some models is not published for this one.
    """
    if config.method == "none":
        return Method(FixedGate({}), NoEstimate())
    anchor = config.anchor or ("nothing" if config.estimator_name == "fitted" else _ANCHORS.get(config.method, "input"))
    estimator = _estimator(config, num_steps, span)
    if config.replay is None:
        gate, warmup_steps = _gate(config, lanes, num_steps, span, published, shift)
        return Method(gate, estimator, warmup_steps, anchor)
    schedule = read_schedule(config.replay, lanes, num_steps, span)
    skips = {lane: frozenset(index for index in span if actions[index] == "skip") for lane, actions in schedule.items()}
    warmup_steps = min(actions[span.start : span.stop].count("warmup") for actions in schedule.values())
    return Method(FixedGate(skips), estimator, warmup_steps, anchor)


def _estimator(config: CacheConfig, num_steps: int, span: range) -> Estimator:
    match config.estimator_name:
        case "reuse":
            return Reuse()
        case "alignment":
            return Alignment(config.gamma_min, config.gamma_max)
        case "projection":
            return Projection(config.gamma_min, config.gamma_max)
        case "taylor":
            return Taylor(config.order, config.clock)
        case "hermite":
            return Hermite(config.order, config.contraction)
        case "adams_bashforth":
            return AdamsBashforth(config.order)
        case "foca":
            return FoCa()
        case "ridge":
            return Ridge(config.shrinkage, config.differences)
        case "fitted":
            return Fitted(_calibration(config, num_steps, span).as_products())


def _gate(
    config: CacheConfig,
    lanes: Sequence[Lane],
    num_steps: int,
    span: range,
    published: Sequence[str],
    shift: float | None,
) -> tuple[Gate, int]:
    """The gate, and how many leading steps of the span it is not asked about."""
    warmup_steps = _warmup_steps(config, span)
    match config.gate_name:
        case "probe":
            return ProbeGate(config.threshold, inclusive=config.at_threshold == "skip"), warmup_steps
        case "first_block":
            return FirstBlockGate(config.threshold), warmup_steps
        case "teacache":
            return TeaCacheGate(config.threshold, _polynomial(config, published)), warmup_steps
        case "magcache":
            return _magcache(config, num_steps, span, published, shift)
        case "easycache":
            return EasyCacheGate(config.threshold), warmup_steps
        case "calibrated":
            calibration = _calibration(config, num_steps, span)
            return CalibratedGate(
                calibration.nearest(config.steps_skipped).compute,
                calibration.as_products(),
                calibration.step_sizes,
                config.brake,
                config.release,
            ), 0
        case "innovation":
            return InnovationGate(config.threshold, _estimator(config, num_steps, span).depth), warmup_steps
        case "interval" if config.compute_steps is None:
            # counted from the last step of the warm-up, as TaylorSeer does
            compute = {*span[:warmup_steps], *span[max(warmup_steps, 1) - 1 :: config.interval]}
            return FixedGate(dict.fromkeys(lanes, frozenset(span) - compute)), warmup_steps
        case "interval" | "list":
            return FixedGate(dict.fromkeys(lanes, frozenset(span) - _listed(config, num_steps))), 0


def _calibration(config: CacheConfig, num_steps: int, span: range) -> Calibration:
    assert config.calibration is not None, "checked with the configuration"
    calibration = read_calibration(config.calibration)
    if calibration.steps != num_steps:
        raise ValueError(other_steps(config, calibration.steps, num_steps))
    if len(span) < num_steps:
        raise ValueError(
            "The gate of the cache is calibrated, which is for models with one transformer: use another method."
        )
    return calibration


def _warmup_steps(config: CacheConfig, span: range) -> int:
    if config.warmup_steps is not None:
        return min(config.warmup_steps, len(span))
    return int((config.warmup_ratio or 0.0) * len(span))  # rounded down, as published


def _listed(config: CacheConfig, num_steps: int) -> frozenset[int]:
    """A first step is computed in any case: there is nothing to estimate it from."""
    steps = config.compute_steps or ()
    last = max(steps, default=0)
    if last >= num_steps:
        raise ValueError(
            f"cache.compute_steps names step {last}, but the last step of this request is "
            f"{num_steps - 1}: leave it out."
        )
    return frozenset(steps)


def _polynomial(config: CacheConfig, published: Sequence[str]) -> Polynomial:
    if config.polynomial is not None and config.signal is not None:
        return Polynomial(config.signal, config.polynomial)
    polynomials = RETENTION_POLYNOMIALS if config.use_ret_steps else POLYNOMIALS
    if takes_calibration(config, polynomials, published):
        return calibrated_polynomial(config)
    return _choose(config, polynomials, published, "polynomials", "cache.polynomial")[1]


def _magcache(
    config: CacheConfig, num_steps: int, span: range, published: Sequence[str], shift: float | None
) -> tuple[Gate, int]:
    warmup_steps = _warmup_steps(config, span)
    if config.ratios is not None:
        ratios = interpolate_nearest(config.ratios, num_steps)
        return MagCacheGate(config.threshold, {"cond": ratios, "uncond": ratios}), warmup_steps
    if takes_calibration(config, TABLES, published):
        return MagCacheGate(config.threshold, calibrated_ratios(config, num_steps)), warmup_steps
    name, table = _choose(config, TABLES, published, "tables", "cache.ratios")
    measured = MEASURED_AT[name].shift
    is_first_expert = span.start == 0 and len(span) < num_steps
    if is_first_expert and table.computes_first_expert:
        warmup_steps = len(span)
    shifts = None if shift is None or shift == measured else (shift, measured)
    if span.start > 0:
        warmup_steps = min(warmup_steps + table.extra_warmup, len(span))
    return MagCacheGate(config.threshold, table.ratios(num_steps, shifts), table.inclusive), warmup_steps


def _choose(
    config: CacheConfig, table: Mapping[str, _Published], names: Sequence[str], things: str, own: str
) -> tuple[str, _Published]:
    """The name and entry of the one that was published for this model."""
    gate, known = config.gate_name, [name for name in names if name in table]
    if config.published is not None and config.published not in known:
        fitting = f"use {' or '.join(known)}" if known else f"leave it out and give {own} of your own"
        raise ValueError(
            f"cache.published is {config.published!r}, for which {gate} has no {things} that fit this model: {fitting}."
        )
    if not known:
        raise ValueError(
            f"The gate of the cache is {gate}, whose {things} are published for {', '.join(table)}, and this model is "
            f"none of these: use the method dicache, fbcache, easycache or interval, or give {own} of your own."
        )
    if config.published is None and len(known) > 1:
        raise ValueError(
            f"cache.published is left out, but {gate} has different {things} for {' and '.join(known)}, and this model "
            "may be either: name one."
        )
    name = config.published or known[0]
    return name, table[name]
