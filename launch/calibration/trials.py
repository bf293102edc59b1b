"""Trial runs of the calibration's prompts with lists of steps, and the error of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from dicache.calibration.refine import Steps, race
from dicache.config import CacheConfig
from engine.engine import Engine
from engine.progress import Progress
from engine.request import GenerationRequest
from engine.storage.files import StagedFiles
from launch.process.scratch import scratch_folder
from launch.ranks.lead import Lead, with_cache

Order = tuple[str, Steps, GenerationRequest]
"""The calibration as JSON, the indices of the steps to compute, and the prompt."""


class Trials:
    """Runs on all ranks of one loaded model. The first rank calls :meth:`errors` as often as it needs and then
    :meth:`end`; every other rank calls :meth:`serve` once."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[GenerationRequest],
        progress: Progress,
        references: Sequence[Tensor] = (),
        known: Path | None = None,
    ) -> None:
        """
        Args:
            references: on the first rank, the final latents of each request without a cache, float32 on the CPU.
            known: on the first rank, the file in which errors are kept in case the calibration is interrupted.
        """
        self._lead = Lead(engine, generate_with_list, progress)
        self._requests = requests
        self._references = references
        self._file = known
        self._known: dict[str, float] = _read(known)

    def errors(self, calibration: str, compute: Steps, against: Sequence[float] | None) -> list[float] | None:
        """The error of a list of steps on each prompt: the root mean square difference of the final latents from those
        without a cache. On the first rank.

        Args:
            calibration: as JSON; its weights estimate the skipped steps.
            compute: indices of the steps to compute.
            against: errors of the best list so far. Prompts are tried until this list is known to be worse.

        Returns:
            None if the list is worse than ``against``.
        """

        def each() -> Iterator[float]:
            for number, request in enumerate(self._requests):
                name = f"{list(compute)} {number}"
                if name not in self._known:
                    latents = self._lead.run((calibration, compute, request))
                    missed = latents.cpu() - self._references[number]
                    self._known[name] = float(missed.double().square().mean().sqrt())
                    self._keep()
                yield self._known[name]

        return race(each(), against)

    def end(self) -> None:
        """Have :meth:`serve` return on the other ranks."""
        self._lead.end()

    def serve(self) -> None:
        """Take part in the trials of the first rank until it ends."""
        self._lead.serve()

    def _keep(self) -> None:
        if self._file is not None:
            with StagedFiles() as files:
                files.stage(self._file).write_text(json.dumps(self._known))


def generate_with_list(engine: Engine, order: Order) -> Tensor:
    """The final latents of a request of which only the listed steps are computed; collective over the replica.

    Returns:
        float32 [samples, channels, frames, height, width], equal on every rank.
    """
    calibration, compute, request = order
    with scratch_folder() as folder:  # one for each rank: ranks need not share a disk
        file = folder / "calibration.json"
        file.write_text(calibration, encoding="utf-8")
        cache = CacheConfig.model_validate(
            {"method": "calibrated", "gate": {"name": "list", "compute_steps": compute}, "calibration": file}
        )
        return with_cache(engine, cache, request).generate(request).latents


def _read(file: Path | None) -> dict[str, float]:
    try:
        return {str(name): float(error) for name, error in json.loads(file.read_text()).items()} if file else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # no file yet, or a damaged one: the trials run again
