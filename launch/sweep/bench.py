"""The ranks of a sweep: the first says what to run next, all run it together, the first looks at the frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dicache.config import CacheConfig
from engine.engine import Engine
from engine.execution.loaded import LoadedModel
from engine.media.video import drop_frames
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.broadcast import object_from_first
from parallel.meter import CollectiveMeter
from parallel.ranks import set_timeouts


@dataclass(frozen=True)
class Trial:
    """What one run gave, on the first rank."""

    frames: Tensor
    """uint8 [frames, height, width, 3]"""
    report: dict[str, Any]


class _Within(Progress):
    """Progress of one run inside a longer work: its steps and phases are told, its stages are not announced."""

    def __init__(self, outer: Progress) -> None:
        self._outer = outer

    def stage(self, name: str) -> None:
        self._outer.doing(name)

    def doing(self, name: str) -> None:
        self._outer.doing(name)

    def step(self, index: int, total: int, action: str) -> None:
        self._outer.step(index, total, action)


class Bench:
    """One loaded model on all ranks of one replica. The first rank calls :meth:`run` as often as it likes and then
    :meth:`end`; all others call :meth:`serve` once."""

    def __init__(self, model: LoadedModel, progress: Progress) -> None:
        self._model = model
        self._progress = _Within(progress)

    @property
    def leads(self) -> bool:
        return self._model.is_first

    def run(self, cache: CacheConfig, request: GenerationRequest) -> Trial:
        """Make one video with that cache section, all ranks together."""
        self._share((cache, request))
        trial = self._make(cache, request)
        assert trial is not None, "the first rank has the frames"
        return trial

    def end(self) -> None:
        """Let the other ranks go."""
        self._share(None)

    def serve(self) -> None:
        """Do what the first rank says until it ends."""
        while (order := self._share(None)) is not None:
            self._make(*order)

    def _share(self, order: tuple[CacheConfig, GenerationRequest] | None) -> Any:
        set_timeouts(self._model.config.runtime.load_timeout_seconds)  # the first may be comparing frames
        return object_from_first(order, self._model.ranks)

    @torch.inference_mode()
    def _make(self, cache: CacheConfig, request: GenerationRequest) -> Trial | None:
        model = self._model
        config = model.config.model_copy(update={"cache": cache})
        result = Engine(replace(model, config=config), self._progress).generate(request)
        set_timeouts(config.runtime.load_timeout_seconds)
        self._progress.doing("decode")
        chunks = list(
            drop_frames(model.autoencoder.decode(result.latents[0], CollectiveMeter()), model.facts.dropped_frames)
        )
        if result.report is None:
            return None
        return Trial(torch.cat(chunks), result.report)
