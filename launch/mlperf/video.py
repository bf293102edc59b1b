"""What every rank of a replica does for the test: a video, the decoding of latents, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dicache.config import CacheConfig
from engine.engine import Engine
from engine.request import GenerationRequest
from launch.mlperf.bench import WARM_UP, Measured
from launch.ranks.lead import with_cache


@dataclass(frozen=True)
class MakeVideo:
    """An order: the video of a prompt, from text to frames in the memory of the first rank, or in a file."""

    prompt: int
    """Its number."""
    cache: str
    """Which of the caches of :class:`Maker`."""
    output: Path | None = None
    number: int = WARM_UP
    """Of the sample in its run."""


@dataclass(frozen=True)
class Decode:
    """An order: frames from latents."""

    latents: Tensor
    """float32 [channels, frames, height, width]"""


@dataclass(frozen=True)
class StayAwake:
    """An order that is none: the other ranks wait for one no longer than a collective may take."""


Order = MakeVideo | Decode | StayAwake


@dataclass(frozen=True)
class Made:
    """What an order gave on the first rank of the replica."""

    latents: Tensor | None = None
    """float32 [channels, frames, height, width], of a video."""
    report: dict[str, Any] = field(default_factory=dict)
    """The run report of a video."""
    decode_seconds: float | None = None
    """Of a video that is in no file."""
    frames: Tensor | None = None
    """uint8 [frames, height, width, 3], of latents."""


@dataclass
class Maker:
    """Carries out orders; collective over the replica."""

    requests: Sequence[GenerationRequest]
    caches: Mapping[str, CacheConfig]
    noise: Tensor | None
    measured: list[Measured] = field(default_factory=list)
    """All videos, in their order."""
    _engines: dict[str, Engine] = field(default_factory=dict)

    def __call__(self, engine: Engine, order: Order) -> Made:
        if isinstance(order, MakeVideo):
            return self._make(engine, order)
        return Made(frames=engine.decode(order.latents)) if isinstance(order, Decode) else Made()

    def _make(self, engine: Engine, order: MakeVideo) -> Made:
        request = self.requests[order.prompt]
        if order.cache not in self._engines:  # a cache is chosen once, not within the time of a query
            self._engines[order.cache] = with_cache(engine, self.caches[order.cache], request)
        configured = self._engines[order.cache]
        result = configured.generate(request, order.output, noise=self.noise, measure=True)
        assert result.measurements is not None, "they were asked for"
        latents, seconds = result.latents[0], None
        if order.output is None:
            started = time.perf_counter()
            configured.decode(latents)  # to frames in memory, as the reference implementation does
            seconds = time.perf_counter() - started
        config, measurements = configured.model.config, result.measurements
        self.measured.append(
            Measured(order.cache, order.number, order.prompt, request, config, measurements, result.report, seconds)
        )
        return Made(latents, result.report or {}, seconds)
