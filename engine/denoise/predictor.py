"""One denoise step's velocity: embed, shard, probe, agree, run or estimate each segment, head, gather, guide."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dicache.controller import Controller, Lane, Observation, Plan, Step
from dicache.sums import Signal, StepSignal
from engine.denoise.guidance import collect, combine
from engine.errors import stop_if_asked
from engine.execution.loaded import Expert
from engine.execution.timing import Stopwatch
from engine.execution.tracing import Span, no_span
from engine.models.adapter import Activations
from parallel.agreement import Agreed, Agreement
from parallel.sharding import ShardedSequence


class Observer(Protocol):
    """Is shown each step of this rank's lanes at which all blocks ran; :class:`Measurements` of
    ``dicache.calibration`` is one."""

    signals: tuple[StepSignal, ...]

    def see(
        self, step: Step, lane: Lane, x: Tensor, y: Tensor, velocity: Tensor, shown: Mapping[str, Tensor]
    ) -> None: ...


class Prediction(NamedTuple):
    """The result of one step, the same on every rank of the replica.

    velocity: guided, [samples, channels, frames, height, width]; branches: the velocity of each guidance branch, in the
    same shape. plans: which segments of each lane ran, and which were estimated.
    """

    velocity: Tensor
    branches: dict[str, Tensor]
    plans: dict[Lane, Plan]


@dataclass(frozen=True)
class LaneWork:
    """The lanes of a request, and what this rank needs to compute its own.

    lanes: all of them, in the same order on every rank. conditions: the adapter's, of every lane that this rank
    computes. guidance: the scale that combines a sample's branches.
    """

    lanes: tuple[Lane, ...]
    conditions: Mapping[Lane, Any]
    guidance: float


class VelocityPredictor:
    """One expert of one request on one rank, with its cache."""

    def __init__(
        self,
        expert: Expert,
        sequence: ShardedSequence,
        work: LaneWork,
        controller: Controller,
        agreement: Agreement,
        stopwatch: Stopwatch,
        observer: Observer | None = None,
        span: Span = no_span,
    ) -> None:
        """
        Args:
            stopwatch: takes the seconds of each (step index, lane) of this rank.
            span: gives the parts of a step their names in a trace.
        """
        self._adapter = expert.adapter
        self._weights = expert.weights
        self._sequence = sequence
        self._work = work
        self._controller = controller
        self._agreement = agreement
        self._stopwatch = stopwatch
        self._observer = observer
        self._span = span

    def predict(self, latents: Tensor, timestep: Tensor, step: Step) -> Prediction:
        """The velocity at these latents [samples, channels, frames, height, width], and what was done in each lane;
        collective over the replica.

        Raises:
            Paused, Cancelled: some rank's control word said so; on all ranks, before the step has changed anything.
        """
        with self._span("embed"):
            entering = self._embed(latents, timestep)
        signals = {lane: self._signals(lane, latents, activations) for lane, activations in entering.items()}
        states, shown = {}, {}
        for lane in list(entering):
            first = entering.pop(lane)
            with self._stopwatch.lap((step.index, lane)), self._span(f"probe {lane.branch}"):
                states[lane] = self._adapter.blocks(first, 0, self._controller.probe_blocks)
            shown[lane] = Observation(first.hidden_states, states[lane].hidden_states, signals.pop(lane))

        with self._span("agreement"):
            agreed, sums = self._agree(step, shown)
        stop_if_asked(agreed.control, f"denoise step {step.index}")
        plans = self._controller.decide(step, sums)

        velocities = {}
        for lane in list(states):
            name = f"{'estimate' if plans[lane].is_estimated else 'rest'} {lane.branch}"
            with self._stopwatch.lap((step.index, lane)), self._span(name):
                velocities[lane] = self._follow(step, lane, plans, shown.pop(lane), states.pop(lane))
        with self._span("gather"):
            laid_out = {
                lane: self._adapter.unpatchify(self._sequence.gather(tokens), latents.shape)
                for lane, tokens in velocities.items()
            }
            branches = collect(laid_out, self._sequence.ranks, self._sequence.meter)
        return Prediction(combine(branches, self._work.guidance), branches, plans)

    def carry(self, added: Tensor) -> None:
        """Add a change to the velocities that the caches have kept of the step just computed, in every branch: a
        corrector has changed the latents.

        Args:
            added: [samples, channels, frames, height, width].
        """
        for lane in self._work.conditions:
            tokens = self._sequence.shard(self._adapter.patchify(added[lane.sample, None]))
            self._controller.carry(lane, tokens)

    def finish(self, latents: Tensor) -> Tensor:
        """The sampler's last latents [samples, channels, frames, height, width], with given frames put in:
        :meth:`Adapter.finish`."""
        finished = []
        for index, sample in enumerate(latents):
            condition = next(given for lane, given in self._work.conditions.items() if lane.sample == index)
            finished.append(self._adapter.finish(sample[None], condition))
        return torch.cat(finished)

    def _embed(self, latents: Tensor, timestep: Tensor) -> dict[Lane, Activations]:
        """What enters block 0 in each lane of this rank; a sample's lanes share what they can."""
        entering: dict[Lane, Activations] = {}
        for index, sample in enumerate(latents):
            conditions = {lane: given for lane, given in self._work.conditions.items() if lane.sample == index}
            shards = self._sequence.shards
            embedded = self._adapter.embed(sample[None], timestep, list(conditions.values()), shards)
            entering |= zip(conditions, embedded, strict=True)
        return entering

    def _signals(self, lane: Lane, latents: Tensor, entering: Activations) -> dict[Signal, Tensor]:
        """What the cache's method looks at besides the probe."""
        signals: dict[Signal, Tensor] = {}
        observed = self._observer.signals if self._observer else ()
        for name in dict.fromkeys((*self._controller.step_signals, *observed)):
            if name == "latents":
                sample = self._adapter.finish(latents[lane.sample, None], self._work.conditions[lane])
                signals[name] = self._sequence.shard(self._adapter.patchify(sample))
                continue
            if name == "modulated_input":
                with self._weights.gathered(0) if self._weights else nullcontext():
                    signals[name] = self._adapter.signal(entering, name)
                continue
            shared = self._adapter.signal(entering, name)
            # all tokens have it in common, so only the rank with the first token brings it to the sums
            signals[name] = shared[:, :0] if self._sequence.shards.start else shared
        return signals

    def _agree(self, step: Step, shown: Mapping[Lane, Observation]) -> tuple[Agreed, dict[Lane, tuple[float, ...]]]:
        """One collective for all lanes; lanes of other ranks contribute zeros here."""
        device = self._sequence.ranks.device
        lanes, shards = self._work.lanes, self._sequence.shards
        partials, finite = [], torch.ones((), dtype=torch.bool, device=device)
        for lane in lanes:
            if lane in shown:
                partials.append(self._controller.partial_sums(step, lane, shown[lane]))
                finite = finite & shown[lane].probe.sum(dtype=torch.float32).isfinite()
            else:
                count = self._controller.num_sums(step, lane)
                partials.append(torch.zeros(count, dtype=torch.float64, device=device))
        agreed = self._agreement.agree(
            step=step.index,
            expected_tokens=shards.num_tokens * len(lanes),
            num_tokens=shards.length * len(shown),
            sums=torch.cat(partials),
            finite=finite,
        )
        sums, start = {}, 0
        for lane, partial in zip(lanes, partials, strict=True):
            sums[lane] = agreed.sums[start : start + len(partial)]
            start += len(partial)
        return agreed, sums

    def _follow(
        self, step: Step, lane: Lane, plans: Mapping[Lane, Plan], shown: Observation, state: Activations
    ) -> Tensor:
        """The velocity of each of this rank's tokens, [1, local tokens, patch volume x channels]: every segment of the
        lane's plan is run or estimated, then the head runs.

        Args:
            state: after the blocks that ran before the agreement.
        """
        adapter, controller = self._adapter, self._controller
        for number, part in enumerate(plans[lane]):
            segment = part.segment
            if part.is_estimated:
                self._take_part(lane, number, plans)
                estimate = controller.estimate(lane, segment, shown, state.hidden_states)
                if segment.with_head:
                    if self._weights is not None:
                        adapter.head(state)  # its weights come from all ranks, and others may need them now
                    return estimate.to(adapter.dtype)  # as computed ones are, which other ranks may send
                state = replace(state, hidden_states=estimate)
                continue
            output: Activations = adapter.blocks(state, segment.start, segment.stop)
            if part.is_cached:
                controller.record(lane, segment, shown, state.hidden_states, output.hidden_states)
            state = output
        velocity = adapter.head(state)
        if self._observer and not plans[lane].is_estimated:
            signals = {str(name): tensor for name, tensor in shown.signals.items()}
            self._observer.see(step, lane, shown.x, state.hidden_states, velocity, signals)
        if controller.needs_velocity:
            controller.record_velocity(lane, shown, velocity)
        return velocity

    def _take_part(self, lane: Lane, number: int, plans: Mapping[Lane, Plan]) -> None:
        """Where weights are shared out, a rank whose branch estimates a segment still has to give its parts of those
        blocks to the ranks whose branch runs it."""
        if self._weights is None:
            return
        segment = plans[lane].parts[number].segment
        elsewhere = [
            other
            for other in self._work.lanes
            if (other.sample, other.window) == (lane.sample, lane.window) and other not in self._work.conditions
        ]
        if any(not plans[other].parts[number].is_estimated for other in elsewhere):
            self._weights.take_part(segment.start, segment.stop)
