"""diffusers' Wan pipeline as the benchmarks run it beside the engine."""

from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from engine.components.dtypes import transformer_dtype
from engine.config import Config


def load_pipeline(config: Config, device: torch.device) -> Any:
    """The pipeline of the configuration's model on ``device``, in the dtype of the engine's transformer, with UniPC and
    the configuration's flow shift."""
    pipeline = WanPipeline.from_pretrained(config.model.path, dtype=transformer_dtype(config, device)).to(device)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(
        pipeline.scheduler.config, flow_shift=config.sampling.shift
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
