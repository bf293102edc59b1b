"""cache-dit's DBCache under diffusers' Wan pipeline. This file alone imports cache-dit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import cache_dit
from diffusers import WanPipeline

from launch.benchmarks.peers.entries import Entry
from launch.benchmarks.peers.pipelines import Pipeline, Prompts

_ORDER = "taylorseer_order"


class DBCache(Pipeline):
    """The pipeline under cache-dit."""

    def __init__(self, prompts: Prompts, entry: Entry) -> None:
        _quieten()
        # cache-dit replaces the call of the pipeline's class, so that other pipelines would run under it as well. It
        # knows the model by the name of the class
        super().__init__(prompts, type("WanPipeline", (WanPipeline,), {}))
        self._always = entry.always
        self._is_on = False

    def set_up(self, setting: Mapping[str, Any]) -> None:
        """As of :class:`Contestant`. ``taylorseer_order`` is TaylorSeer's; all else is ``DBCacheConfig``'s."""
        if self._is_on:
            cache_dit.disable_cache(self.pipeline)
        keys = {**self._always, **setting}
        order = keys.pop(_ORDER, None)
        calibrator = None if order is None else cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
        config = cache_dit.DBCacheConfig(**keys)
        cache_dit.enable_cache(self.pipeline, cache_config=config, calibrator_config=calibrator)
        self._is_on = True


def _quieten() -> None:
    """Leave out what cache-dit says about each setting, in ten lines; each of its modules has a logger of its own."""
    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] in ("cache_dit", "CACHE_DIT"):
            logging.getLogger(name).setLevel(logging.ERROR)
