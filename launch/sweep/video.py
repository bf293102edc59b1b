"""One video of a sweep: made by all ranks, looked at by the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dicache.config import CacheConfig
from engine.engine import Engine
from engine.request import GenerationRequest
from launch.ranks.lead import with_cache

Order = tuple[CacheConfig, GenerationRequest]


@dataclass(frozen=True)
class Video:
    """What one request gave, on the first rank."""

    frames: Tensor
    """uint8 [frames, height, width, 3]"""
    report: dict[str, Any]
    """The run report, as of :class:`engine.engine.Result`."""


def make_video(engine: Engine, order: Order) -> Video | None:
    """Make one video with a cache section of its own; collective over the replica. None but on its first rank."""
    cache, request = order
    configured = with_cache(engine, cache, request)
    result = configured.generate(request)
    frames = configured.decode(result.latents[0])
    return None if frames is None or result.report is None else Video(frames, result.report)
