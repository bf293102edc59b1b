"""The request of a configuration, put to diffusers' own pipeline."""

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from engine.config import Config
from tests.support.small_model import PROMPT

STEPS = 14
SMALL = (f"sampling.steps={STEPS}", "sampling.frames=5", "sampling.height=48", "sampling.width=112")


def ask(pipeline: WanPipeline, config: Config, seed: int) -> torch.Tensor:
    """The pipeline's final latents, [1, channels, frames, height, width], of :data:`PROMPT`."""
    sampling = config.sampling
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=sampling.shift)
    latents: torch.Tensor = pipeline(
        PROMPT,
        negative_prompt="",
        height=sampling.height,
        width=sampling.width,
        num_frames=sampling.frames,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        max_sequence_length=sampling.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="latent",
    ).frames
    return latents
