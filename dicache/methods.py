"""Builds the gate and the estimator of a request's method."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicache.config import CacheConfig
from dicache.estimators.estimator import Estimator
from dicache.estimators.none import NoEstimate
from dicache.gates.fixed import FixedGate
from dicache.gates.gate import Gate
from dicache.pairs import PAIRS, Anchor
from dicache.replay import read_schedule
from dicache.request import CacheRequest
from dicache.steps import Lane
from dicache.sums import Operand, StepSignal, Sum
from dicache.trajectory import VELOCITY_ANCHORS


@dataclass(frozen=True)
class Method:
    """A gate and an estimator for one request, and the number of warm-up steps, at which neither is asked."""

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
        ValueError: ``cache.gate.compute_steps`` or ``cache.replay`` does not fit this request, or what its authors
            publish for some models is not published for this one.
    """
    if config.gate is None or config.estimator is None:
        return Method(FixedGate({}), NoEstimate())
    anchor = config.anchor or config.estimator.anchor or PAIRS[config.method].anchor
    request = CacheRequest(
        lanes,
        num_steps,
        span,
        published,
        shift,
        threshold=config.threshold or 0.0,
        warmup_steps=_warmup_steps(config, span),
        calibration=config.calibration,
    )
    estimator = config.estimator.build(request)
    if config.replay is None:
        return Method(config.gate.build(request, estimator), estimator, config.gate.warmup_steps(request), anchor)
    schedule = read_schedule(config.replay, lanes, num_steps, span)
    skips = {lane: frozenset(index for index in span if actions[index] == "skip") for lane, actions in schedule.items()}
    warmup_steps = min(actions[span.start : span.stop].count("warmup") for actions in schedule.values())
    return Method(FixedGate(skips), estimator, warmup_steps, anchor)


def _warmup_steps(config: CacheConfig, span: range) -> int:
    if config.warmup_steps is not None:
        return min(config.warmup_steps, len(span))
    return int((config.warmup_ratio or 0.0) * len(span))  # rounded down, as published
