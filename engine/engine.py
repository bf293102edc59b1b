"""The engine of one rank: it is loaded once, and then makes the videos of one request after another.

A request's way: :meth:`Engine.generate` calls the stages of ``engine.generation.generation.Generation`` in order;
their denoise loop is ``engine.denoise.loop.denoise``.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.keeper import open_checkpoints
from engine.checkpoints.match import differences
from engine.checks.room import output_bytes
from engine.config import Config
from engine.denoise.loop import OnVelocity
from engine.denoise.predictor import Observer
from engine.errors import InvalidInput
from engine.execution.convolutions import set_convolutions
from engine.execution.devices import mixed_devices_note
from engine.execution.loaded import LoadedModel, load_job, load_model
from engine.execution.out_of_memory import naming_stage
from engine.execution.tracing import Tracing
from engine.generation.decoding import limit_waits
from engine.generation.finishing import Finishing
from engine.generation.generation import Generation
from engine.generation.measurements import RankMeasurements
from engine.media.video import drop_frames
from engine.progress import Progress
from engine.request import GenerationRequest, Outputs, Task
from engine.storage.waiting import Waiting
from parallel.control import Control
from parallel.meter import CollectiveMeter
from parallel.ranks import join, leave, pick_device, set_timeouts
from parallel.worklist import WorkList


@dataclass(frozen=True)
class Result:
    """The result of a request; ``report`` is None on all ranks of a replica but its first.

    latents: float32 [samples, channels, frames, height, width], equal on every rank. measurements: of this rank, where
    they were asked for.
    """

    latents: Tensor
    report: dict[str, Any] | None = None
    measurements: RankMeasurements | None = None


class Engine:
    """One rank's loaded model. The methods are collective: every rank of a replica calls the same ones in order."""

    def __init__(
        self,
        model: LoadedModel,
        progress: Progress,
        lists: Iterator[int] | None = None,
        noted: set[str] | None = None,
    ) -> None:
        """Use :meth:`load`."""
        self._lists = lists or itertools.count(1)  # a number for each list of work of the loaded model
        self._noted = set() if noted is None else noted  # lines that the user has read in this list
        self._model = model
        self._progress = progress

    @classmethod
    def load(cls, config: Config, progress: Progress | None = None) -> "Engine":
        """Join the process groups (where there is more than one rank) and load this rank's weights.

        Args:
            config: with nothing left open, as :func:`engine.checks.preflight.preflight` returns it.

        Raises:
            InvalidInput: the model folder is not one that Lockstep runs.
            RankFailure: a file in it cannot be loaded.
            ValueError: a parallel degree is open, or the environment names another world size than they multiply to.
        """
        progress = progress or Progress()
        started = time.perf_counter()
        progress.stage("join")
        ranks = join(config.parallel.degrees, pick_device(config.runtime.device), config.runtime.load_timeout_seconds)
        if (line := mixed_devices_note(ranks)) is not None:
            progress.note(line)
        set_convolutions(config.runtime)
        progress.stage("load")
        with naming_stage("load", lambda: load_job(config, ranks), ranks.device):
            model = load_model(config, ranks, progress)
        return cls(replace(model, load_seconds=time.perf_counter() - started), progress)

    @property
    def model(self) -> LoadedModel:
        """This rank's share of the checkpoint, with the configuration that requests are made with."""
        return self._model

    def configured(self, config: Config, progress: Progress | None = None) -> "Engine":
        """The same loaded model for requests with another configuration, whose cache, checkpoints, limits and audit
        apply. What loading has decided stays: the layout, sharding of weights, devices and attention.

        Args:
            progress: for these requests; by default the one that was given at loading.

        Raises:
            InvalidInput: it asks for another model.
        """
        loaded = self._model.config
        if changed := differences(loaded.model.model_dump(mode="json"), config.model.model_dump(mode="json")):
            raise InvalidInput(f"Another model is loaded than the configuration asks for: model.{changed[0]}.")
        kept_from_loading = ("device", "attention", "offload", "tf32", "cudnn_benchmark")
        runtime = {name: getattr(loaded.runtime, name) for name in kept_from_loading}
        kept = {"parallel": loaded.parallel, "runtime": config.runtime.model_copy(update=runtime)}
        model = replace(self._model, config=config.model_copy(update=kept), load_seconds=0.0)
        return Engine(model, progress or self._progress, self._lists, self._noted)

    @torch.inference_mode()
    def generate(
        self,
        request: GenerationRequest,
        output: Path | None = None,
        report: Path | None = None,
        latents: Path | None = None,
        checkpoint: Path | None = None,
        fallback: Path | None = None,
        replaces: bool = True,
        control: Callable[[], Control] = lambda: Control.RUN,
        on_velocity: OnVelocity | None = None,
        observer: Observer | None = None,
        noise: Tensor | None = None,
        measure: bool = False,
        tracing: Tracing | None = None,
    ) -> Result:
        """Make the videos of one request; collective over the ranks of a replica, independent of other replicas.

        Args:
            output: the video file; with several prompts "out.mp4" becomes out-0.mp4, out-1.mp4 and so on.
                None stops at the latents. The same on every rank, though only the first one writes.
            report: file of the run report.
            latents: file of the final latents (safetensors, key "latents").
            checkpoint: a folder of this request alone, which all ranks see. A checkpoint that an earlier run has left
                there is continued. Once the request's files are written, only a copy of the report stays in it.
            fallback: another such folder, on another disk, for checkpoints that the first one does not take.
            replaces: an older video and report of these names. If not, and there are some in the end, this video and
                its report get a number behind their names.
            control: called before each step and between stages. A pause or cancellation by any rank ends the request on
                all ranks at the same step: :attr:`Control.PAUSE` leaves a checkpoint of that step if there is a folder
                for it, :attr:`Control.CANCEL` leaves nothing. Decoding is not interrupted: a request that is cancelled
                meanwhile writes no video, and one that is paused is finished.
            on_velocity: called with each step's velocity of every guidance branch, equal on every rank.
            observer: its ``see`` is called for each computed step of this rank's lanes and tokens.
            noise: to begin with instead of the seed's, float32 [samples, channels, frames, height, width] on the CPU,
                equal on every rank. A checkpoint does not know of it: not together with a folder for one.
            measure: time every denoise step and every collective, for :attr:`Result.measurements`. It changes neither
                the video nor the order of collectives.
            tracing: records what runs, from ``engine.execution.tracing.trace``; one for each request.

        Raises:
            Paused, Cancelled: as some rank's control word asked.
            NotFiniteError: activations are not finite on some rank.
            DiskFailure: a disk took no files for longer than ``runtime.wait_for_room_seconds``.
        """
        set_timeouts(self._model.config.runtime.load_timeout_seconds)  # until the first step is through
        config, ranks = self._model.config, self._model.ranks
        outputs = Outputs(output, report, latents, checkpoint=checkpoint, fallback=fallback, replaces=replaces)
        waiting = Waiting(ranks, config.runtime.wait_for_room_seconds, control, self._progress)
        with open_checkpoints(outputs.checkpoints, config, request, waiting) as checkpoints:
            generation = Generation(self._model, request, self._progress, checkpoints, control, measure, tracing)
            finishing = Finishing(self._model, generation, outputs, waiting, checkpoints)
            generation.stop_if_asked("the beginning")
            generation.resume()
            encoded = generation.encode()
            self._noted.update(generation.notes_before_loading)
            self._note(generation.notes)
            final = generation.denoise(encoded, on_velocity, observer, noise)
            limit_waits(config.runtime, self._progress)  # decoding and writing take longer
            generation.stop_if_asked("decode")
            document = finishing.run(final, output_bytes(request, outputs, self._model.facts))
            if checkpoints is not None:
                checkpoints.remove()
            measurements = generation.measurements() if measure else None
        return Result(final, document, measurements)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor | None:
        """The frames of one video, all at once in memory; collective over the ranks of a replica.

        Args:
            latents: float32 [channels, frames, height, width], one sample of :attr:`Result.latents`, equal on every
                rank.

        Returns:
            uint8 [frames, height, width, 3] on the first rank of the replica; None elsewhere.
        """
        limit_waits(self._model.config.runtime, self._progress)
        self._progress.doing("decode")
        chunks = self._model.autoencoder.decode(latents, CollectiveMeter())
        frames = list(drop_frames(chunks, self._model.facts.dropped_frames))
        return torch.cat(frames) if frames else None

    def generate_all(
        self, tasks: Sequence[Task], control: Callable[[], Control] = lambda: Control.RUN
    ) -> list[dict[str, Any]] | None:
        """Make a list of videos, shared out over the data-parallel replicas; collective within each replica.

        Args:
            control: as of :meth:`generate`; it ends the list of the replica whose rank it comes from.

        Returns:
            All run reports in the order of the tasks, on the first rank of the job; None elsewhere.

        Raises:
            Whatever :meth:`generate` raises; videos that are finished stay.
        """
        ranks = self._model.ranks
        self._noted.clear()
        work = WorkList(len(tasks), ranks, f"list {next(self._lists)}")
        for index in work:
            self._progress.video(index, len(tasks))
            task = tasks[index]
            out = task.outputs
            paths = (out.video, out.report, out.latents, out.checkpoint, out.fallback, out.replaces)
            result = self.generate(task.request, *paths, control)
            if result.report is not None:
                work.finish(index, result.report)
        self._progress.done()
        if ranks.degrees.data > 1:
            self._progress.stage("wait")
        work.await_all()
        if ranks.rank != 0:
            return None
        reports = work.results()
        for document in reports:
            self._note(document["notes"])  # other replicas' lines are not shown where they are made
        return reports

    def _note(self, lines: Iterable[str]) -> None:
        """Say each line once in a list of videos."""
        for line in lines:
            if line not in self._noted:
                self._noted.add(line)
                self._progress.note(line)

    def close(self) -> None:
        """Leave the process groups."""
        leave()
