"""One denoise step's velocity: embed, shard, probe, agree, resume or estimate, head, gather, guide."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dicache.controller import Controller, Decision, Lane, Step
from dicache.sums import Signal, StepSignal
from engine.denoise.control import stop_if_asked
from engine.denoise.guidance import collect, combine, own_lanes
from engine.execution.timing import Stopwatch
from engine.models.adapter import Activations, Adapter
from parallel.agreement import Agreed, Agreement
from parallel.control import Control
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import Shards, gather, shard
from parallel.weights import ShardedWeights


class Observer(Protocol):
    """Is shown each computed step of this rank's lanes; :class:`Measurements` of ``dicache.calibration`` is one."""

    signals: tuple[StepSignal, ...]

    def see(
        self, step: Step, lane: Lane, x: Tensor, y: Tensor, velocity: Tensor, shown: Mapping[str, Tensor]
    ) -> None: ...


class Prediction(NamedTuple):
    """One step's answer, the same on every rank of the replica.

    velocity: guided, [samples, channels, frames, height, width]; branches: what it was made of, each of that shape.
    """

    velocity: Tensor
    branches: dict[str, Tensor]
    decisions: dict[Lane, Decision]


class VelocityPredictor:
    """The model of one request on one rank: its texts, its shards, its cache."""

    def __init__(
        self,
        adapter: Adapter,
        lanes: tuple[Lane, ...],
        controller: Controller,
        agreement: Agreement,
        ranks: Ranks,
        shards: Shards,
        conditions: Mapping[Lane, Any],
        guidance: float,
        meter: CollectiveMeter,
        stopwatch: Stopwatch,
        weights: ShardedWeights | None = None,
        observer: Observer | None = None,
    ) -> None:
        """
        Args:
            lanes: all lanes of the request, in the same order on every rank.
            conditions: the adapter's, of every lane that this rank computes.
            stopwatch: takes the seconds of each (step index, lane) of this rank.
            weights: the transformer's, where the ranks share them out.
        """
        self._adapter = adapter
        self._controller = controller
        self._agreement = agreement
        self._ranks = ranks
        self._shards = shards
        self._conditions = conditions
        self._guidance = guidance
        self._meter = meter
        self._stopwatch = stopwatch
        self._weights = weights
        self._observer = observer
        self._lanes = lanes
        self._own = own_lanes(lanes, ranks)

    def predict(self, latents: Tensor, timestep: Tensor, step: Step, control: Control) -> Prediction:
        """The velocity at these latents [samples, channels, frames, height, width], and what was decided for each lane;
        collective over the replica.

        Raises:
            Stopped: some rank's control word said so; on all ranks, before the step has changed anything.
        """
        controller, adapter = self._controller, self._adapter
        entering = self._embed(latents, timestep)
        signals = {lane: self._signals(lane, latents, entering[lane]) for lane in self._own}
        probes = {}
        for lane in self._own:
            with self._stopwatch.lap((step.index, lane)):
                probes[lane] = adapter.blocks(entering[lane], 0, controller.probe_blocks)

        agreed, sums = self._agree(step, entering, probes, signals, control)
        stop_if_asked(agreed.control, f"denoise step {step.index}")
        decisions = controller.decide(step, sums)

        velocities = {}
        for lane in self._own:
            with self._stopwatch.lap((step.index, lane)):
                self._take_part(lane, decisions)
                shown = entering.pop(lane), probes.pop(lane), signals.pop(lane)
                velocities[lane] = self._velocity(step, lane, decisions[lane], *shown)
        laid_out = {lane: self._lay_out(tokens, latents.shape) for lane, tokens in velocities.items()}
        branches = collect(laid_out, self._ranks, self._meter)
        return Prediction(combine(branches, self._guidance), branches, decisions)

    def carry(self, added: Tensor) -> None:
        """The velocities of the step just computed are taken to be so much more, [samples, channels, frames, height,
        width], in every branch: a corrector has moved the latents below them."""
        for lane in self._own:
            tokens = shard(self._adapter.patchify(added[lane.sample, None]), self._shards)
            self._controller.carry(lane, tokens)

    def finish(self, latents: Tensor) -> Tensor:
        """The sampler's last latents [samples, channels, frames, height, width], with what the conditions give put
        in."""
        finished = []
        for index, sample in enumerate(latents):
            condition = next(self._conditions[lane] for lane in self._own if lane.sample == index)
            finished.append(self._adapter.finish(sample[None], condition))
        return torch.cat(finished)

    def _embed(self, latents: Tensor, timestep: Tensor) -> dict[Lane, Activations]:
        """What enters block 0 in each lane of this rank; a sample's lanes share what they can."""
        entering: dict[Lane, Activations] = {}
        for index, sample in enumerate(latents):
            lanes = [lane for lane in self._own if lane.sample == index]
            conditions = [self._conditions[lane] for lane in lanes]
            embedded = self._adapter.embed(sample[None], timestep, conditions, self._shards)
            entering |= zip(lanes, embedded, strict=True)
        return entering

    def _signals(self, lane: Lane, latents: Tensor, entering: Activations) -> dict[Signal, Tensor]:
        """What the cache's method looks at besides the probe."""
        signals: dict[Signal, Tensor] = {}
        observed = self._observer.signals if self._observer else ()
        for name in dict.fromkeys((*self._controller.step_signals, *observed)):
            if name == "latents":
                sample = self._adapter.finish(latents[lane.sample, None], self._conditions[lane])
                signals[name] = shard(self._adapter.patchify(sample), self._shards)
                continue
            if name == "modulated_input":
                with self._weights.gathered(0) if self._weights else nullcontext():
                    signals[name] = self._adapter.signal(entering, name)
                continue
            shared = self._adapter.signal(entering, name)
            # all tokens have it in common, so the rank with the first of them alone brings it
            signals[name] = shared[:, :0] if self._shards.start else shared
        return signals

    def _agree(
        self,
        step: Step,
        entering: Mapping[Lane, Activations],
        probes: Mapping[Lane, Activations],
        signals: Mapping[Lane, Mapping[Signal, Tensor]],
        control: Control,
    ) -> tuple[Agreed, dict[Lane, tuple[float, ...]]]:
        """One collective for all lanes; lanes of other ranks contribute zeros here."""
        device = self._ranks.device
        partials, finite = [], torch.ones((), dtype=torch.bool, device=device)
        for lane in self._lanes:
            if lane in probes:
                x, probe = entering[lane].hidden_states, probes[lane].hidden_states
                partials.append(self._controller.partial_sums(step, lane, x, probe, signals[lane]))
                finite = finite & probe.sum(dtype=torch.float32).isfinite()
            else:
                count = self._controller.num_sums(step, lane)
                partials.append(torch.zeros(count, dtype=torch.float64, device=device))
        agreed = self._agreement.agree(
            step=step.index,
            expected_tokens=self._shards.num_tokens * len(self._lanes),
            num_tokens=self._shards.length * len(self._own),
            sums=torch.cat(partials),
            finite=finite,
            control=control,
        )
        sums, start = {}, 0
        for lane, partial in zip(self._lanes, partials, strict=True):
            sums[lane] = agreed.sums[start : start + len(partial)]
            start += len(partial)
        return agreed, sums

    def _velocity(
        self,
        step: Step,
        lane: Lane,
        decision: Decision,
        entering: Activations,
        probe: Activations,
        signals: dict[Signal, Tensor],
    ) -> Tensor:
        """Of each of this rank's tokens: estimated, or computed from where the probe stopped."""
        controller, adapter, x = self._controller, self._adapter, entering.hidden_states
        if decision.action == "skip":
            estimate = controller.estimate(lane, x, probe.hidden_states, signals)
            if not controller.estimates_velocity:
                return adapter.head(replace(probe, hidden_states=estimate))
            if self._weights is not None:
                adapter.head(probe)  # whose weights come from all ranks, and others may need them
            return estimate.to(adapter.dtype)  # as computed ones are, which other ranks may send
        output: Activations = adapter.blocks(probe, controller.probe_blocks, adapter.num_blocks)
        velocity = adapter.head(output)
        if self._observer:
            self._observer.see(
                step, lane, x, output.hidden_states, velocity, {str(name): shown for name, shown in signals.items()}
            )
        if controller.needs_velocity:
            signals["velocity"] = velocity
        controller.record(lane, x, probe.hidden_states, output.hidden_states, signals)
        return velocity

    def _take_part(self, lane: Lane, decisions: Mapping[Lane, Decision]) -> None:
        """Where weights are shared out, a rank whose branch is skipped still has to give its parts of the blocks to
        the ranks that compute the sample's other branch."""
        if self._weights is None or decisions[lane].action != "skip":
            return
        elsewhere = [other for other in self._lanes if other.sample == lane.sample and other not in self._own]
        if any(decisions[other].action != "skip" for other in elsewhere):
            self._weights.take_part(self._controller.probe_blocks, self._adapter.num_blocks)

    def _lay_out(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        return self._adapter.unpatchify(gather(tokens, self._shards, self._ranks, self._meter), latents_shape)
