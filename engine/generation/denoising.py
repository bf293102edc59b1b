"""The denoise stage of a request: from noise, or from a checkpoint, to the final latents."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dicache.controller import Controller, Lane, Plan, Step
from engine.checkpoints.keeper import RequestCheckpoints
from engine.checkpoints.state import RequestState
from engine.components.samplers import restore_scheduler, scheduler_state
from engine.denoise.corrector import Corrector
from engine.denoise.experts import Experts, split_steps
from engine.denoise.guidance import BRANCHES, all_lanes, own_lanes
from engine.denoise.loop import OnVelocity, denoise, draw_noise
from engine.denoise.predictor import LaneWork, Observer, VelocityPredictor
from engine.execution.loaded import LoadedModel
from engine.generation.audit import RequestAudit
from engine.generation.metrics import RequestMetrics
from engine.generation.step_log import action_of
from engine.models.published import published_names
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.agreement import Agreement
from parallel.broadcast import Named
from parallel.ranks import set_timeouts
from parallel.sharding import ShardedSequence, plan_shards


class Denoising:
    """One request's sampler, caches and shards on one rank, and the state that a checkpoint keeps of them."""

    def __init__(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        metrics: RequestMetrics,
        agreement: Agreement,
        progress: Progress,
        checkpoints: RequestCheckpoints | None = None,
    ) -> None:
        """
        Args:
            checkpoints: what an earlier run has left, and where this one saves its state; None saves nothing.
        """
        self._model = model
        self._request = request
        self._metrics = metrics
        self._agreement = agreement
        self._progress = progress
        self._checkpoints = checkpoints
        self._lanes = all_lanes(len(request.prompts), model.facts.num_branches(request.sampling.guidance))
        self._scheduler = model.parts.make_scheduler(model.scheduler_config, request.sampling, model.ranks.device)
        self._spans = split_steps(self._scheduler.timesteps, model.facts.boundary_timestep)
        cache, steps, names = model.config.cache, request.sampling.steps, published_names(model.facts, request)
        if cache.method == "auto" or cache.quality is not None:
            raise ValueError("The cache section is open: engine.checks chooses its method and how much it skips.")
        self._controllers = [
            Controller(cache, self._lanes, steps, expert.adapter.num_blocks, span, names, request.sampling.shift)
            for expert, span in zip(model.experts, self._spans, strict=True)
        ]
        shape = model.facts.latents_shape(request.sampling.frames, request.sampling.height, request.sampling.width)
        self._latents_shape = torch.Size((len(request.prompts), *shape))
        self._shards = plan_shards(model.adapter.num_tokens(self._latents_shape), model.ranks)
        self._corrector: Corrector | None = None
        self._resumed: RequestState | None = None
        self._audit = RequestAudit(model, metrics.meter) if model.config.runtime.audit else None

    @property
    def steps_done(self) -> int:
        """Denoise steps that an earlier run has done."""
        return self._resumed.steps_done if self._resumed else 0

    @property
    def resumed_at(self) -> list[int]:
        """Steps that were done each time that the request was resumed."""
        return [*self._resumed.resumed_at, self._resumed.steps_done] if self._resumed else []

    @property
    def is_done(self) -> bool:
        """Whether an earlier run has left the final latents."""
        return self.steps_done == self._request.sampling.steps

    @property
    def next_expert(self) -> int:
        """The transformer that takes the next step."""
        return next((i for i, span in enumerate(self._spans) if self.steps_done in span), 0)

    @property
    def block_fraction(self) -> float:
        """Share of the transformer blocks that were executed; 1 means that nothing was skipped."""
        segments = self._controllers[0].cached_segments
        return self._metrics.steps.block_fraction(self._model.adapter.num_blocks, segments)

    def resume(self) -> None:
        """Continue from the newest checkpoint of an earlier run, if there is one; collective over the replica.

        Raises:
            RankFailure: it is of another request, model, method or version.
        """
        if self._checkpoints is None:
            return
        own = own_lanes(self._lanes, self._model.ranks)
        state = self._resumed = self._checkpoints.load(self._shards, own.__contains__)
        if state is None:
            return
        self._progress.note(f"going on after {state.steps_done} of {self._request.sampling.steps} denoise steps")
        restore_scheduler(self._scheduler, state.scheduler)
        for controller, snapshot in zip(self._controllers, state.snapshots, strict=bool(state.snapshots)):
            controller.restore(snapshot)
        self._metrics.steps.rows = list(state.rows)
        self._metrics.stopwatch.restore(state.seconds)

    def run(
        self,
        encoded: Sequence[Named],
        on_velocity: OnVelocity | None = None,
        observer: Observer | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The final latents, float32 [samples, channels, frames, height, width], equal on every rank.

        Args:
            encoded: the tensors of each lane, in the order of ``engine.denoise.guidance.all_lanes``.
            on_velocity, observer, noise: as of :meth:`engine.engine.Engine.generate`.

        Raises:
            Paused, Cancelled: some rank's control word said so.
            NotFiniteError: activations are not finite on some rank.
        """
        model, resumed = self._model, self._resumed
        if resumed is not None and self.is_done:
            return resumed.latents
        with self._metrics.stage("denoise"), model.running(self._metrics.meter):
            if noise is None:
                noise = draw_noise(self._latents_shape, self._request.seed, model.ranks.device)
            noise = noise.to(model.ranks.device)
            model.begin(self._shards, self._metrics.meter, self._progress)
            if self._audit:
                self._audit.check_inputs(self._lanes, encoded)
            experts = Experts(self._spans, lambda number: self._predictor(number, encoded, noise, observer))
            self._corrector = self._make_corrector(experts)
            latents = denoise(
                experts,
                self._scheduler,
                resumed.latents if resumed else self._start(noise, encoded),
                self._on_step,
                self.steps_done,
                on_velocity,
                self._on_pause,
                self._corrector,
                self._metrics.step,
            )
            for controller in self._controllers:
                controller.release()  # decoding needs the memory
            if self._checkpoints:
                self._checkpoints.save_final(self._state(self._request.sampling.steps, latents))
            return latents

    def _start(self, noise: Tensor, encoded: Sequence[Named]) -> Tensor:
        """The latents of all samples before the first step; all lanes of a sample have the same image."""
        first = [self._lanes.index(Lane(sample, BRANCHES[0])) for sample in range(len(noise))]
        make_start = self._model.parts.make_start
        return torch.cat([make_start(sample[None], encoded[i]) for sample, i in zip(noise, first, strict=True)])

    def _make_corrector(self, experts: Experts) -> Corrector | None:
        if not self._model.config.cache.corrector:
            return None
        corrector = Corrector(self._scheduler, {span.start for span in self._spans}, experts.carry)
        if self._resumed is not None:
            corrector.restore(self._resumed.corrector)
        return corrector

    def _predictor(
        self, number: int, encoded: Sequence[Named], noise: Tensor, observer: Observer | None
    ) -> VelocityPredictor:
        """The predictor of an expert whose first step comes; the caches of earlier experts are dropped."""
        model = self._model
        for controller in self._controllers[:number]:
            controller.release()
        set_timeouts(model.config.runtime.load_timeout_seconds)  # its weights may have to come from the host
        model.residency.use(number)
        expert, guidance = model.experts[number], self._request.sampling.guidance_of(number)
        own = {lane: i for i, lane in enumerate(self._lanes) if lane in own_lanes(self._lanes, model.ranks)}
        conditions = expert.adapter.conditions([encoded[i] for i in own.values()], noise, self._shards)
        return VelocityPredictor(
            expert,
            ShardedSequence(model.ranks, self._shards, self._metrics.meter),
            LaneWork(self._lanes, dict(zip(own, conditions, strict=True)), guidance),
            self._controllers[number],
            self._agreement,
            self._metrics.stopwatch,
            observer,
            self._metrics.span,
        )

    def _on_step(self, step: Step, timestep: float, plans: dict[Lane, Plan], latents: Tensor) -> None:
        self._metrics.steps.add(step, timestep, plans)
        actions = {decision.action for plan in plans.values() for decision in plan.decisions}
        action = action_of(actions)
        self._metrics.note_action(action)
        if self._audit:
            self._audit.check_step(step, plans, latents)
        cached = sum(controller.cache_bytes for controller in self._controllers)
        self._metrics.note_cache_bytes(cached + (self._corrector.nbytes if self._corrector else 0))
        if step.index in (self.steps_done, *(span.start for span in self._spans)):
            # connections are made, memory is allocated and weights are in place: from here on a step is short
            set_timeouts(self._model.config.runtime.step_timeout_seconds)
        if self._checkpoints and self._checkpoints.is_due(step.index + 1):
            self._checkpoints.save(self._state(step.index + 1, latents), self._shards)
        self._progress.step(step.index, self._request.sampling.steps, action)

    def _on_pause(self, steps_done: int, latents: Tensor) -> None:
        if self._checkpoints and steps_done > self.steps_done:  # else the checkpoint that it began from still holds
            self._checkpoints.save_paused(self._state(steps_done, latents), self._shards)

    def _state(self, steps_done: int, latents: Tensor) -> RequestState:
        """What a checkpoint after that many steps holds; after the last one the latents are all that is needed."""
        is_final = steps_done == self._request.sampling.steps
        metrics = self._metrics
        return RequestState(
            steps_done,
            latents,
            scheduler={} if is_final else scheduler_state(self._scheduler),
            snapshots=() if is_final else [controller.snapshot() for controller in self._controllers],
            corrector=self._corrector.state if self._corrector and not is_final else {},
            rows=metrics.steps.rows,
            resumed_at=self.resumed_at,
            # one rank saves the final latents, for all
            seconds=metrics.lane_seconds_of_all(self._model.ranks) if is_final else metrics.stopwatch.seconds(False),
        )
