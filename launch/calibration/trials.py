"""Runs of the calibration's prompts with lists of steps: the first rank says which, all run it together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from dicache.calibration.refine import Steps, race
from dicache.config import CacheConfig
from engine.engine import Engine
from engine.execution.loaded import LoadedModel
from engine.files import StagedFiles
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.broadcast import object_from_first


class Trials:
    """One loaded model on all ranks. The first calls :meth:`errors` as often as it likes and then :meth:`end`; all
    others call :meth:`serve` once."""

    def __init__(
        self,
        model: LoadedModel,
        requests: Sequence[GenerationRequest],
        progress: Progress,
        references: Sequence[Tensor] = (),
        known: Path | None = None,
    ) -> None:
        """
        Args:
            references: on the first rank, the final latents of each request without a cache.
            known: on the first rank, where errors are kept for a calibration that is broken off.
        """
        self._model = model
        self._requests = requests
        self._progress = progress
        self._references = references
        self._file = known
        self._known: dict[str, float] = _read(known)

    def errors(self, calibration: str, compute: Steps, against: Sequence[float] | None) -> list[float] | None:
        """How far the final latents come out from those without a cache, the root of the mean square, prompt by prompt;
        None once that is worse than ``against``. On the first rank.

        Args:
            calibration: as JSON; its weights estimate what is skipped.
        """

        def each() -> Iterator[float]:
            for number in range(len(self._requests)):
                name = f"{list(compute)} {number}"
                if name not in self._known:
                    self._share((calibration, compute, number))
                    self._known[name] = self._error(calibration, compute, number)
                    self._keep()
                yield self._known[name]

        return race(each(), against)

    def end(self) -> None:
        """Let the other ranks go."""
        self._share(None)

    def serve(self) -> None:
        """Do what the first rank says until it ends."""
        while (order := self._share(None)) is not None:
            self._run(*order)

    def _share(self, order: tuple[str, Steps, int] | None) -> Any:
        return object_from_first(order, self._model.ranks)

    def _error(self, calibration: str, compute: Steps, number: int) -> float:
        missed = self._run(calibration, compute, number).cpu() - self._references[number]
        return float(missed.double().square().mean().sqrt())

    def _run(self, calibration: str, compute: Steps, number: int) -> Tensor:
        with TemporaryDirectory() as folder:  # every rank its own: they may not share a disk
            file = Path(folder) / "calibration.json"
            file.write_text(calibration, encoding="utf-8")
            cache = CacheConfig(method="calibrated", gate="list", compute_steps=compute, calibration=file)
            model = replace(self._model, config=self._model.config.model_copy(update={"cache": cache}))
            return Engine(model, _Steps(self._progress)).generate(self._requests[number]).latents

    def _keep(self) -> None:
        if self._file is not None:
            with StagedFiles() as files:
                files.stage(self._file).write_text(json.dumps(self._known))


class _Steps(Progress):
    """Tells the steps of a run inside a longer work, and none of its stages."""

    def __init__(self, outer: Progress) -> None:
        self._outer = outer

    def step(self, index: int, total: int, action: str) -> None:
        self._outer.step(index, total, action)


def _read(file: Path | None) -> dict[str, float]:
    try:
        return {str(name): float(error) for name, error in json.loads(file.read_text()).items()} if file else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # none yet, or damaged: made again
