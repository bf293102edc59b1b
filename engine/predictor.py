"""One denoise step's velocity: embed, shard, probe, agree, resume or estimate, head, gather, guide."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dicache.controller import Controller, Decision, Lane, Step
from engine.guidance import combine, own_lanes
from engine.models.wan import Embedded, WanAdapter
from engine.timing import Stopwatch
from parallel.agreement import Agreed, Agreement, Control
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import Shards, gather, shard


class VelocityPredictor:
    """The model of one request on one rank: its texts, its shards, its cache."""

    def __init__(
        self,
        adapter: WanAdapter,
        lanes: tuple[Lane, ...],
        controller: Controller,
        agreement: Agreement,
        ranks: Ranks,
        shards: Shards,
        texts: Mapping[Lane, Tensor],
        guidance: float,
        meter: CollectiveMeter,
        stopwatch: Stopwatch,
    ) -> None:
        """
        Args:
            lanes: all lanes of the request, in the same order on every rank.
            texts: projected text [1, text_tokens, dim] of every lane of the request that this rank computes.
            stopwatch: takes the seconds of each (step index, lane) of this rank.
        """
        self._adapter = adapter
        self._controller = controller
        self._agreement = agreement
        self._ranks = ranks
        self._shards = shards
        self._texts = texts
        self._guidance = guidance
        self._meter = meter
        self._stopwatch = stopwatch
        self._lanes = lanes
        self._own = own_lanes(lanes, ranks)
        self._rotary: tuple[Tensor, Tensor] | None = None

    def predict(
        self, latents: Tensor, timestep: Tensor, step: Step, control: Control
    ) -> tuple[Tensor, dict[Lane, Decision], Control]:
        """The guided velocity [samples, channels, frames, height, width], what was decided for each lane,
        and the control word that all ranks agreed on."""
        controller, depth = self._controller, self._controller.probe_blocks
        embedded = [self._embed(sample[None], timestep) for sample in latents]
        probes = {}
        for lane in self._own:
            with self._stopwatch.lap((step.index, lane)):
                entering = embedded[lane.sample]
                probes[lane] = self._adapter.blocks(entering.hidden_states, entering, self._texts[lane], 0, depth)

        agreed, sums = self._agree(step, embedded, probes, control)
        decisions = controller.decide(step, sums)

        velocities = {}
        for lane in self._own:
            with self._stopwatch.lap((step.index, lane)):
                entering = embedded[lane.sample]
                hidden_states = self._finish(lane, decisions[lane], entering, probes.pop(lane))
                velocities[lane] = self._adapter.head(hidden_states, entering)
        laid_out = {lane: self._lay_out(tokens, latents.shape) for lane, tokens in velocities.items()}
        return combine(laid_out, self._guidance, self._ranks, self._meter), decisions, agreed.control

    def _embed(self, latents: Tensor, timestep: Tensor) -> Embedded:
        if self._rotary is None:
            cos, sin = self._adapter.rotary(latents)
            self._rotary = shard(cos, self._shards), shard(sin, self._shards)
        embedded = self._adapter.embed(latents, timestep, self._rotary)
        return replace(embedded, hidden_states=shard(embedded.hidden_states, self._shards))

    def _agree(
        self, step: Step, embedded: list[Embedded], probes: dict[Lane, Tensor], control: Control
    ) -> tuple[Agreed, dict[Lane, tuple[float, ...]]]:
        """One collective for all lanes; lanes of other ranks contribute zeros here."""
        device = self._ranks.device
        partials, finite = [], torch.ones((), dtype=torch.bool, device=device)
        for lane in self._lanes:
            if lane in probes:
                entering = embedded[lane.sample].hidden_states
                partials.append(self._controller.partial_sums(step, lane, entering, probes[lane]))
                finite = finite & probes[lane].sum(dtype=torch.float32).isfinite()
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

    def _finish(self, lane: Lane, decision: Decision, entering: Embedded, probe: Tensor) -> Tensor:
        """The output of all blocks: estimated, or computed from where the probe stopped."""
        controller, adapter = self._controller, self._adapter
        if decision.action == "skip":
            return controller.estimate(lane, entering.hidden_states, probe)
        output = adapter.blocks(probe, entering, self._texts[lane], controller.probe_blocks, adapter.num_blocks)
        controller.record(lane, entering.hidden_states, probe, output)
        return output

    def _lay_out(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        return self._adapter.unpatchify(gather(tokens, self._shards, self._ranks, self._meter), latents_shape)
