"""diffusers' Wan pipeline: plain, and under diffusers' own cache hooks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers import WanPipeline, hooks
from torch import Tensor

from engine.config import Config, SamplingConfig
from engine.errors import InvalidInput
from launch.benchmarks.peers.contestant import BrokenOff, Made
from launch.benchmarks.peers.counting import WorkCount
from launch.benchmarks.peers.entries import Entry
from launch.benchmarks.wan_pipeline import load_pipeline


@dataclass(frozen=True)
class Prompts:
    """The loaded pipeline that all copies are made of, and what it made of the prompts."""

    pipeline: Any
    sampling: SamplingConfig
    embedded: Sequence[tuple[Tensor, Tensor | None]]
    """Of each prompt its embeddings and those of the empty negative prompt."""

    @classmethod
    @torch.inference_mode()
    def of(cls, config: Config, captions: Sequence[str], device: torch.device) -> Prompts:
        """Load the pipeline of the configuration's model and embed all prompts."""
        sampling = config.sampling
        pipeline = load_pipeline(config, device)
        guided, length = sampling.guidance > 1, sampling.max_sequence_length
        embedded = [pipeline.encode_prompt(text, "", guided, max_sequence_length=length) for text in captions]
        return cls(pipeline, sampling, embedded)

    def copy(self, pipeline_class: type[WanPipeline] = WanPipeline) -> Any:
        """A pipeline with a transformer and a sampler of its own; the rest is shared."""
        own = {name: copy.deepcopy(self.pipeline.components[name]) for name in ("transformer", "scheduler")}
        pipeline = pipeline_class(**{**self.pipeline.components, **own})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


class Pipeline:
    """A pipeline of its own, with counted work. By itself it is diffusers without a cache."""

    def __init__(self, prompts: Prompts, pipeline_class: type[WanPipeline] = WanPipeline) -> None:
        self._prompts = prompts
        self.pipeline = prompts.copy(pipeline_class)
        self._count = WorkCount(self.pipeline.transformer)

    def set_up(self, setting: Mapping[str, Any]) -> None:
        """As of :class:`Contestant`; there is nothing to set."""

    @torch.inference_mode()
    def make(self, number: int, break_off: bool = False) -> Made:
        """As of :class:`Contestant`."""
        sampling = self._prompts.sampling
        positive, negative = self._prompts.embedded[number]
        started = _now(positive.device)
        try:
            latents = self.pipeline(
                prompt_embeds=positive,
                negative_prompt_embeds=negative,
                height=sampling.height,
                width=sampling.width,
                num_frames=sampling.frames,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=torch.Generator("cpu").manual_seed(number),
                output_type="latent",
                callback_on_step_end=_stop_after(sampling.steps // 2) if break_off else None,
            ).frames
        finally:
            work = self._count.take(sampling.steps * (1 if negative is None else 2))
        return Made(latents.float(), _now(latents.device) - started, work)


class Hooked(Pipeline):
    """The pipeline under one of diffusers' cache hooks."""

    def __init__(self, prompts: Prompts, entry: Entry, ratios: Sequence[float] | None) -> None:
        """
        Args:
            ratios: of the sizes of residuals, one for each step, for a hook that asks for them.
        """
        super().__init__(prompts)
        self._entry = entry
        self._ratios = ratios

    def set_up(self, setting: Mapping[str, Any]) -> None:
        """As of :class:`Contestant`. The hooks are taken off and put on: their own reset leaves things."""
        transformer = self.pipeline.transformer
        if transformer.is_cache_enabled:
            transformer.disable_cache()
        transformer.enable_cache(self._configured({**self._entry.always, **setting}))

    def _configured(self, keys: dict[str, Any]) -> Any:
        """The hook's configuration, with what it asks for of the model and the sampling."""
        config_class = getattr(hooks, self._entry.config, None)
        if config_class is None:
            raise InvalidInput(f"diffusers has no diffusers.hooks.{self._entry.config}.")
        known = {field.name for field in fields(config_class)}
        if "num_inference_steps" in known:
            keys["num_inference_steps"] = self._prompts.sampling.steps
        if "current_timestep_callback" in known:
            keys["current_timestep_callback"] = lambda: self.pipeline.current_timestep
        if "mag_ratios" in known and "mag_ratios" not in keys:
            if self._ratios is None:
                raise InvalidInput("It needs ratios of residual sizes, and cache.calibration names no file with some.")
            keys["mag_ratios"] = list(self._ratios)
        if "taylor_factors_dtype" in keys:
            keys["taylor_factors_dtype"] = getattr(torch, keys["taylor_factors_dtype"])
        return config_class(**keys)


def _stop_after(steps: int) -> Callable[..., dict[str, Any]]:
    def after_step(_: Any, index: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index + 1 == steps:
            raise BrokenOff
        return tensors

    return after_step


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
