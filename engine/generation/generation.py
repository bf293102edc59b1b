"""One request on one rank: encode, denoise, decode, write, report. All its state ends with it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checkpoints.keeper import RequestCheckpoints
from engine.checkpoints.match import describe_model, job_fingerprint
from engine.checks.notes import image_notes, request_notes
from engine.denoise.conditions import encode
from engine.denoise.loop import OnVelocity
from engine.denoise.predictor import Observer
from engine.errors import InvalidInput, stop_if_asked
from engine.execution.loaded import LoadedModel
from engine.execution.out_of_memory import naming_stage
from engine.execution.tracing import Tracing
from engine.generation import report as reporting
from engine.generation.decoding import decode_videos
from engine.generation.denoising import Denoising
from engine.generation.measurements import RankMeasurements
from engine.generation.metrics import RankUsage, RequestMetrics
from engine.generation.tag import Done, tag_text
from engine.progress import Progress
from engine.request import GenerationRequest
from engine.storage.files import StagedFiles, save_tensors
from parallel.agreement import Agreement
from parallel.broadcast import Named, objects_of_all
from parallel.control import Control
from parallel.weights import parameter_bytes


class Generation:
    """The stages of one request, to be called in order on every rank of the replica."""

    def __init__(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        progress: Progress,
        checkpoints: RequestCheckpoints | None = None,
        control: Callable[[], Control] = lambda: Control.RUN,
        measure: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Args:
            control: what this rank asks of all, once a step and between stages.
            measure: time every step and collective, for :meth:`measurements`.
            tracing: records what runs.
        """
        self._model = model
        self._request = request
        self._progress = progress
        self._checkpoints = checkpoints
        self._metrics = RequestMetrics(model.ranks.device, progress, measure, tracing)
        self._agreement = Agreement(model.ranks, self._metrics.meter, control)
        self.notes: list[str] = []
        """Lines on what of the texts does not reach the model; on the first rank, after :meth:`encode`."""
        self.notes_before_loading: list[str] = []
        """Lines of :mod:`engine.checks.notes`, which the user has read before loading; on the first rank, as above."""
        self._denoising = Denoising(model, request, self._metrics, self._agreement, progress, checkpoints)
        self._noise_is_given = False

    def stop_if_asked(self, where: str, may_pause: bool = True) -> None:
        """Between two stages, where no step carries the control word; collective over the replica.

        Args:
            where: the place that an error names.
            may_pause: False where a pause comes too late.

        Raises:
            Paused, Cancelled: some rank's control word said so; on all ranks.
        """
        agreed = self._agreement.agree_between_stages()
        if may_pause or agreed is not Control.PAUSE:
            stop_if_asked(agreed, where)

    def resume(self) -> None:
        """Continue from the newest checkpoint of an earlier run, if there is one.

        Raises:
            RankFailure: it is of another request, model, method or version.
        """
        self._denoising.resume()

    def encode(self) -> Sequence[Named]:
        """The encoded prompts and images of every lane, in the order of ``engine.denoise.guidance.all_lanes``, equal
        on every rank; nothing where only decoding is left.

        Raises:
            RankFailure: an image cannot be read, although it could when the request was checked.
        """
        self._look_for_notes()
        if self._denoising.is_done:
            return ()
        with self._naming("encode"), self._metrics.stage("encode"):
            self._model.prepare(self._request.sampling, self._denoising.next_expert)
            encoded = encode(self._model, self._request, self._metrics.meter)
        self._metrics.note_texts(encoded)
        return encoded

    def denoise(
        self,
        encoded: Sequence[Named],
        on_velocity: OnVelocity | None = None,
        observer: Observer | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The final latents, float32 [samples, channels, frames, height, width], equal on every rank.

        Raises:
            Paused, Cancelled, NotFiniteError: as of :meth:`Denoising.run`.
        """
        self._noise_is_given = noise is not None
        with self._naming("denoise"):
            return self._denoising.run(encoded, on_velocity, observer, noise)

    def decode(self, latents: Tensor, output: Path, files: StagedFiles) -> list[dict[str, Any]]:
        """Stage the videos, and on the first rank return each video's entry in the report: :func:`decode_videos`."""
        self._progress.stage("decode")
        with self._naming("decode"):
            tags = cache(partial(self._tags, latents))
            sampling, metrics = self._request.sampling, self._metrics
            return decode_videos(self._model, sampling, latents, output, files, metrics, lambda sample: tags()[sample])

    def _tags(self, latents: Tensor) -> list[str | None]:
        """Of all videos of the request, for which the latents are hashed once."""
        config, request = self._model.config, self._request
        if not config.runtime.metadata:
            return [None] * len(request.prompts)
        actions = list(self._metrics.steps.actions().values())
        done = Done(actions, self._denoising.block_fraction, reporting.latents_sha256(latents), self._noise_is_given)
        return [tag_text(config, request, done, sample, self._described) for sample in range(len(request.prompts))]

    @cached_property
    def _described(self) -> dict[str, Any]:
        return describe_model(self._model.config.model)

    def write(self, latents: Tensor, latents_path: Path | None, files: StagedFiles) -> None:
        """The stage in which files are written: stage the latents, where a file for them is asked for."""
        with self._metrics.stage("write"):
            if latents_path:
                save_tensors({"latents": latents.float().cpu()}, files.stage(latents_path))

    def _naming(self, stage: str) -> AbstractContextManager[None]:
        """Inside, a card without memory is an error that names the stage and says what to do."""
        return naming_stage(stage, lambda: self._model.job(self._request.sampling), self._model.ranks.device)

    def _look_for_notes(self) -> None:
        """On the first rank, which has the tokenizers and may read the images."""
        model, request = self._model, self._request
        if not model.is_first:
            return
        assert model.text_encoder is not None
        self.notes = model.text_encoder.notes(request, model.facts.num_branches(request.sampling.guidance))
        with suppress(InvalidInput):  # an image, or the model's folder, is not there any more
            self.notes_before_loading += request_notes(model.config, request, model.facts)
            self.notes_before_loading += image_notes(request)

    def collect_usage(self) -> RankUsage:
        """The largest of what any rank used, on every rank; collective over the replica."""
        return RankUsage.largest(objects_of_all(self._own_usage(), self._model.ranks))

    def measurements(self) -> RankMeasurements | None:
        """What this rank has measured, in the end; None where it was not to measure."""
        model, block_fraction = self._model, self._denoising.block_fraction
        device = reporting.describe_device(model.ranks.device)
        return self._metrics.measurements(model.ranks.rank, device, self._own_usage(), block_fraction)

    def _own_usage(self) -> RankUsage:
        weight_bytes = sum(parameter_bytes(expert.adapter.transformer) for expert in self._model.experts)
        return self._metrics.usage(weight_bytes, self._agreement.seconds)

    def report(self, usage: RankUsage, latents: Tensor, videos: list[dict[str, Any]]) -> dict[str, Any]:
        """The run report, on the first rank."""
        metrics, denoising = self._metrics, self._denoising
        metrics.steps.fill_seconds(usage.lane_seconds)
        totals = reporting.describe_totals(metrics.steps, denoising.block_fraction, usage) | {
            "checkpoints": self._checkpoints.usage if self._checkpoints else None,
            "seconds": metrics.seconds(self._model.load_seconds),
        }
        return {
            "schema": reporting.SCHEMA,
            "request": reporting.describe_request(self._model, self._request),
            **reporting.describe_run(self._model),
            "fingerprint": job_fingerprint(self._model.config, self._request, self._described),
            "resumed_at": denoising.resumed_at,
            "notes": [*self.notes_before_loading, *self.notes],
            "steps": metrics.steps.rows,
            "totals": totals,
            "output": reporting.describe_output(latents, videos),
        }
