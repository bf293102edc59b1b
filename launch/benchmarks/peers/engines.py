"""Lockstep's engine under one of its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.engine import Engine
from engine.errors import Cancelled
from engine.request import GenerationRequest
from launch.benchmarks.peers.contestant import BrokenOff, Made
from launch.benchmarks.peers.counting import WorkCount
from launch.benchmarks.peers.entries import Entry
from launch.jobs.config import load_job_config
from launch.ranks.lead import with_cache
from parallel.control import Control


class Ours:
    """The loaded engine with a cache section of its own."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[GenerationRequest],
        count: WorkCount,
        config_file: Path,
        entry: Entry,
    ) -> None:
        """
        Args:
            engine: shared by all methods; it keeps nothing of a request.
            count: of the engine's transformer.
            config_file: the configuration that the entry's keys are put over, as ``--set`` does.
        """
        self._engine = engine
        self._requests = requests
        self._count = count
        self._config_file = config_file
        self._always = entry.always
        self._configured = engine

    def set_up(self, setting: Mapping[str, Any]) -> None:
        """As of :class:`Contestant`."""
        given = [f"cache.{key}={value}" for key, value in {**self._always, **setting}.items()]
        cache = load_job_config(self._config_file, given).cache
        self._configured = with_cache(self._engine, cache, self._requests[0])

    def make(self, number: int, break_off: bool = False) -> Made:
        """As of :class:`Contestant`."""
        request = self._requests[number]
        try:
            result = self._configured.generate(
                request, control=_cancel_after(request.sampling.steps // 2) if break_off else (lambda: Control.RUN)
            )
        except Cancelled:
            raise BrokenOff from None
        finally:
            work = self._count.take(request.sampling.steps * (2 if request.sampling.guidance > 1 else 1))
        assert result.report, "one rank is the first"
        return Made(result.latents, result.report["totals"]["seconds"]["denoise"], work)


def _cancel_after(steps: int) -> Callable[[], Control]:
    """A control word that cancels the video at that step. It is read a few times before the first step as well, so that
    somewhat earlier is meant."""
    left = steps

    def control() -> Control:
        nonlocal left
        left -= 1
        return Control.RUN if left >= 0 else Control.CANCEL

    return control
