"""One request on one rank: encode, denoise, decode, write, report. All its state dies with it."""

import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dicache.controller import Controller, Decision, Lane, Step
from engine import report as reporting
from engine.checkpoints.keeper import RequestCheckpoints
from engine.checkpoints.state import RequestState
from engine.components.dtypes import resolved_dtypes
from engine.components.samplers import restore_scheduler, scheduler_state
from engine.denoise.conditions import encode
from engine.denoise.control import stop_if_asked
from engine.denoise.corrector import Corrector
from engine.denoise.experts import Experts, split_steps
from engine.denoise.guidance import BRANCHES, all_lanes, own_lanes
from engine.denoise.loop import OnVelocity, denoise, draw_noise
from engine.denoise.predictor import Observer, VelocityPredictor
from engine.execution.loaded import LoadedModel
from engine.execution.timing import StageClock, Stopwatch
from engine.execution.versions import describe_versions
from engine.files import StagedFiles, numbered
from engine.media.video import drop_frames, write_video
from engine.models.published import published_names
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.agreement import Agreement
from parallel.audit import Audit
from parallel.broadcast import Named, objects_of_all
from parallel.control import Control
from parallel.meter import CollectiveMeter
from parallel.ranks import set_timeouts
from parallel.sharding import plan_shards
from parallel.weights import parameter_bytes

Encoded = Sequence[Named]


class Generation:
    """The stages of one request, to be called in order."""

    def __init__(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        progress: Progress,
        checkpoints: RequestCheckpoints | None = None,
    ) -> None:
        self._model = model
        self._request = request
        self._cache = model.config.cache
        self._progress = progress
        self._started = time.perf_counter()
        self._clock = StageClock(model.ranks.device)
        self._log = reporting.StepLog()
        self._meter = CollectiveMeter()
        self._stopwatch = Stopwatch(model.ranks.device)
        self._lanes = all_lanes(len(request.prompts), model.facts.num_branches(request.sampling.guidance))
        self._scheduler = model.parts.make_scheduler(model.scheduler_config, request.sampling, model.ranks.device)
        self._spans = split_steps(self._scheduler.timesteps, model.facts.boundary_timestep)
        steps, names = request.sampling.steps, published_names(model.facts, request)
        self._controllers = [
            Controller(self._cache, self._lanes, steps, expert.adapter.num_blocks, span, names, request.sampling.shift)
            for expert, span in zip(model.experts, self._spans, strict=True)
        ]
        shape = model.facts.latents_shape(request.sampling.frames, request.sampling.height, request.sampling.width)
        self._latents_shape = torch.Size((len(request.prompts), *shape))
        self._shards = plan_shards(model.adapter.num_tokens(self._latents_shape), model.ranks)
        self._checkpoints = checkpoints
        self._corrector: Corrector | None = None
        self._resumed: RequestState | None = None
        self._cache_bytes = 0
        self._agreement = Agreement(model.ranks, self._meter)
        self._replicated: dict[str, Tensor] = {}  # by name, what an audit compares each step beside latents
        self._audit = Audit(model.ranks, self._meter) if model.config.runtime.audit else None
        if model.ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def resume(self) -> None:
        """Go on where an earlier run was, if it has left a checkpoint.

        Raises:
            RankFailure: what it has left is of another request, model, method or version.
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
        self._log.rows = list(state.rows)
        self._stopwatch.restore(state.seconds)

    @property
    def _steps_done(self) -> int:
        """Before this run."""
        return self._resumed.steps_done if self._resumed else 0

    @property
    def _resumed_at(self) -> list[int]:
        """Steps that were done each time that the request was resumed."""
        return [*self._resumed.resumed_at, self._resumed.steps_done] if self._resumed else []

    def encode(self) -> Encoded:
        """What the prompts and images became for every lane, in the order of the lanes, equal on every rank; nothing
        where only decoding is left."""
        if self._steps_done == self._request.sampling.steps:
            return ()
        with self._stage("encode"):
            return encode(self._model, self._request, self._meter)

    def denoise(
        self,
        encoded: Encoded,
        control: Callable[[], Control],
        on_velocity: OnVelocity | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Final latents, float32 [samples, channels, frames, height, width], equal on every rank."""
        model, resumed = self._model, self._resumed
        if resumed is not None and resumed.steps_done == self._request.sampling.steps:
            return resumed.latents
        with self._stage("denoise"), model.running(self._meter):
            noise = draw_noise(self._latents_shape, self._request.seed, model.ranks.device)
            model.begin(self._shards, self._meter)
            if self._audit:
                self._audit_inputs(encoded)
            experts = Experts(self._spans, lambda number: self._predictor(number, encoded, noise, observer))
            latents = resumed.latents if resumed else self._start(noise, encoded)
            self._corrector = self._make_corrector(experts)
            latents = denoise(
                experts,
                self._scheduler,
                latents,
                control,
                self._on_step,
                self._steps_done,
                on_velocity,
                self._on_pause,
                self._corrector,
            )
            for controller in self._controllers:
                controller.release()  # decoding wants the memory
            if self._checkpoints:
                self._checkpoints.save_final(self._state(self._request.sampling.steps, latents))
            return latents

    def _make_corrector(self, experts: Experts) -> Corrector | None:
        if not self._cache.corrector:
            return None
        corrector = Corrector(self._scheduler, {span.start for span in self._spans}, experts.carry)
        if self._resumed is not None:
            corrector.restore(self._resumed.corrector)
        return corrector

    def stop_if_asked(self, control: Control, where: str) -> None:
        """Between two stages, where no step carries the control word; collective over the replica.

        Raises:
            Paused, Cancelled: some rank's control word said so; on all ranks.
        """
        stop_if_asked(self._agreement.agree_between_stages(control), where)

    def _state(self, steps_done: int, latents: Tensor) -> RequestState:
        """Where the request stands; once all steps are done, the latents are all that is needed."""
        is_final = steps_done == self._request.sampling.steps
        return RequestState(
            steps_done,
            latents,
            scheduler={} if is_final else scheduler_state(self._scheduler),
            snapshots=() if is_final else [controller.snapshot() for controller in self._controllers],
            corrector=self._corrector.state if self._corrector and not is_final else {},
            rows=self._log.rows,
            resumed_at=self._resumed_at,
            # one rank saves the final latents, for all
            seconds=self._seconds_of_all() if is_final else self._stopwatch.seconds(wait=False),
        )

    def _seconds_of_all(self) -> dict[Any, float]:
        """Of each step and lane, also of those that other ranks computed; collective over the replica."""
        return reporting.longest(objects_of_all(self._stopwatch.seconds(), self._model.ranks))

    def _start(self, noise: Tensor, encoded: Encoded) -> Tensor:
        """The latents of all samples before the first step; what a sample's lanes have of its image is the same."""
        first = [self._lanes.index(Lane(sample, BRANCHES[0])) for sample in range(len(noise))]
        make_start = self._model.parts.make_start
        return torch.cat([make_start(sample[None], encoded[i]) for sample, i in zip(noise, first, strict=True)])

    def _audit_inputs(self, encoded: Encoded) -> None:
        """Compare what all ranks hold whole from the start: the weights once, for they are large, and at every step
        what the prompts became. Latents alone would not tell: gathered from all ranks, they are equal in any case."""
        assert self._audit is not None
        for lane, named in zip(self._lanes, encoded, strict=True):
            whose = f"sample {lane.sample} {lane.branch}" if len(self._request.prompts) > 1 else lane.branch
            self._replicated |= {f"{name} of {whose}": tensor for name, tensor in named.items()}
        weights = {
            f"weights {name} of transformer {number}": parameter
            for number, expert in enumerate(self._model.experts)
            if expert.weights is None  # else each rank has a part of its own
            for name, parameter in expert.adapter.transformer.named_parameters()
        }
        self._audit.check("before the first denoise step", {**self._replicated, **weights})

    def _predictor(
        self, number: int, encoded: Encoded, noise: Tensor, observer: Observer | None = None
    ) -> VelocityPredictor:
        """That of an expert whose first step comes; what earlier experts have cached is dropped."""
        model = self._model
        for controller in self._controllers[:number]:
            controller.release()
        set_timeouts(model.config.runtime.load_timeout_seconds)  # its weights may have to come from the host
        model.residency.use(number)
        adapter = model.experts[number].adapter
        own = {lane: i for i, lane in enumerate(self._lanes) if lane in own_lanes(self._lanes, model.ranks)}
        conditions = adapter.conditions([encoded[i] for i in own.values()], noise, self._shards)
        return VelocityPredictor(
            adapter,
            self._lanes,
            self._controllers[number],
            self._agreement,
            model.ranks,
            self._shards,
            dict(zip(own, conditions, strict=True)),
            self._request.sampling.guidance_of(number),
            self._meter,
            self._stopwatch,
            model.experts[number].weights,
            observer,
        )

    def collect_usage(self) -> reporting.RankUsage:
        """The largest of what any rank used, on every rank."""
        model = self._model
        usage = reporting.RankUsage(
            weight_bytes=sum(parameter_bytes(expert.adapter.transformer) for expert in model.experts),
            cache_bytes=self._cache_bytes,
            collective_bytes=dict(self._meter.sent_bytes),
            agreement_seconds=self._agreement.seconds,
            peak_memory_bytes=_peak_memory_bytes(model.ranks.device),
            lane_seconds=self._stopwatch.seconds(),
        )
        return reporting.RankUsage.largest(objects_of_all(usage, model.ranks))

    def decode(self, latents: Tensor, output: Path, files: StagedFiles) -> list[dict[str, str]]:
        """Decode every sample, all ranks together, and stage its video as the frames come, on the first rank.

        Returns:
            On the first rank each video's entry in the report.
        """
        self._progress.stage("decode")
        videos = []
        for path, sample in zip(numbered(output, len(latents)), latents, strict=True):
            with closing(self._decoded(sample)) as chunks:
                if self._model.is_first:
                    videos.append(self._write_video(chunks, path, files))
                else:
                    deque(chunks, maxlen=0)  # no frames come, but this rank's rows are decoded and sent
        return videos

    def _write_video(self, chunks: Iterable[Tensor], path: Path, files: StagedFiles) -> dict[str, str]:
        sampling, frames_hash = self._request.sampling, reporting.FramesHash()
        with self._timed("write"):
            staged = files.stage(path)
            write_video(frames_hash.watch(chunks), staged, sampling.fps, sampling.height, sampling.width)
        return {"path": str(path), "frames_sha256": frames_hash.hexdigest()}

    def _decoded(self, sample: Tensor) -> Generator[Tensor, None, None]:
        """Chunks of frames; the time spent here is decoding's alone, whoever asks for them."""
        decoded = self._model.autoencoder.decode(sample, self._meter)
        with closing(drop_frames(decoded, self._model.facts.dropped_frames)) as chunks:
            while True:
                with self._timed("decode"):
                    frames = next(chunks, None)
                if frames is None:
                    return
                yield frames

    def write(self, latents: Tensor, latents_path: Path | None, files: StagedFiles) -> None:
        """Stage what is asked for beside the videos: the latents."""
        with self._stage("write"):
            if latents_path:
                save_file({"latents": latents.float().cpu().contiguous()}, files.stage(latents_path))

    def report(self, usage: reporting.RankUsage, latents: Tensor, videos: list[dict[str, str]]) -> dict[str, Any]:
        """The run report."""
        model, log = self._model, self._log
        log.fill_seconds(usage.lane_seconds)
        first = videos[0] if videos else {"path": None, "frames_sha256": None}
        seconds = {"load": model.load_seconds} | {
            name: self._clock.seconds[name] for name in ("encode", "denoise", "decode", "write")
        }
        return {
            "schema": reporting.SCHEMA,
            "request": reporting.describe_request(
                model.config,
                self._request,
                model.ranks.degrees,
                resolved_dtypes(model.config, model.ranks.device),
                shard_weights=model.experts[0].weights is not None,
            ),
            "model": reporting.describe_model(model.facts, [e.adapter.transformer for e in model.experts], model.loras),
            "versions": describe_versions(),
            "device": reporting.describe_device(model.ranks.device),
            "world_size": model.ranks.degrees.world_size,
            "layout": reporting.describe_layout(model.ranks.degrees),
            "resumed_at": self._resumed_at,
            "steps": log.rows,
            "totals": {
                "computed": len(log.rows) - log.skipped,
                "skipped": log.skipped,
                "block_fraction": log.block_fraction(model.adapter.num_blocks, self._controllers[0].probe_blocks),
                "weight_bytes_per_rank": usage.weight_bytes,
                "cache_bytes_per_rank": usage.cache_bytes,
                "collective_bytes_per_rank": sum(usage.collective_bytes.values()),
                "collective_bytes_by_kind": usage.collective_bytes,
                "peak_memory_bytes": usage.peak_memory_bytes,
                "agreement_seconds": usage.agreement_seconds,
                "checkpoints": self._checkpoints.usage if self._checkpoints else None,
                "seconds": seconds | {"total": model.load_seconds + time.perf_counter() - self._started},
            },
            "output": {
                "path": first["path"],
                "latents_sha256": reporting.latents_sha256(latents),
                "frames_sha256": first["frames_sha256"],
                "videos": videos,
            },
        }

    def _on_step(self, step: Step, timestep: float, decisions: dict[Lane, Decision], latents: Tensor) -> None:
        steps = self._request.sampling.steps
        self._log.add(step, timestep, decisions)
        if self._audit:
            things: dict[str, Tensor | str] = {"decisions": repr(decisions), "latents": latents, **self._replicated}
            self._audit.check(f"after denoise step {step.index}", things)
        kept = sum(controller.cache_bytes for controller in self._controllers)
        self._cache_bytes = max(self._cache_bytes, kept + (self._corrector.nbytes if self._corrector else 0))
        if step.index in (self._steps_done, *(span.start for span in self._spans)):
            # connections are made, memory is allocated and weights are in place: from here on a step is short
            set_timeouts(self._model.config.runtime.step_timeout_seconds)
        if self._checkpoints and self._checkpoints.is_due(step.index + 1):
            self._checkpoints.save(self._state(step.index + 1, latents), self._shards)
        actions = {decision.action for decision in decisions.values()}
        self._progress.step(step.index, steps, next(a for a in ("warmup", "compute", "skip") if a in actions))

    def _on_pause(self, steps_done: int, latents: Tensor) -> None:
        if self._checkpoints and steps_done > self._steps_done:  # else it is where it began
            self._checkpoints.save_paused(self._state(steps_done, latents), self._shards)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._progress.stage(name)
        with self._timed(name):
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Count the time inside for this stage, and not for the one around it."""
        self._progress.doing(name)
        around = self._clock.switch(name)
        yield
        self._clock.switch(around)
        if around:
            self._progress.doing(around)


def _peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: by torch on a GPU during this request, else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
