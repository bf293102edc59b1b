"""Wan's velocity is sampled as a velocity, whatever sampler the model's folder names."""

import json

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from engine.components.wan.scheduler import make_wan_scheduler
from tests.support.small_model import CONFIG, tiny_config


def sampled(pretrained: dict) -> torch.Tensor:
    """Latents after all steps with a velocity that depends on them."""
    sampling = tiny_config("sampling.scheduler=unipc").sampling
    scheduler = make_wan_scheduler(pretrained, sampling, torch.device("cpu"))
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        latents = scheduler.step(0.7 * latents + 0.1, timestep, latents, return_dict=False)[0]
    return latents


def test_a_folder_with_another_flow_sampler_gives_the_same_latents() -> None:
    """A UniPC that takes the velocity for noise gave latents 228 times too large."""
    shipped = json.loads((CONFIG.parent / "tiny_wan" / "scheduler" / "scheduler_config.json").read_text())
    assert shipped["_class_name"] == UniPCMultistepScheduler.__name__
    euler = dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert "prediction_type" not in euler
    assert torch.equal(sampled(euler), sampled(shipped))
