"""The sampler of a request to a Wan model."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from engine.components.samplers import Scheduler
from engine.config import SamplingConfig


def make_wan_scheduler(pretrained: dict[str, Any], sampling: SamplingConfig, device: torch.device) -> Scheduler:
    """The sampler of a request, its timesteps set, from the checkpoint's scheduler configuration.

    Wan predicts the velocity of a flow, whatever sampler its folder names: the configuration of another class has no
    ``prediction_type``, and UniPC would take the velocity for noise.
    """
    if sampling.scheduler == "unipc":
        scheduler = UniPCMultistepScheduler.from_config(
            pretrained, flow_shift=sampling.shift, prediction_type="flow_prediction", use_flow_sigmas=True
        )
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=sampling.shift)
    scheduler.set_timesteps(sampling.steps, device=device)
    scheduler.set_begin_index(0)  # else each step searches its timestep and waits for the device
    return scheduler
