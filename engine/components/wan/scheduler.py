"""The sampler of a request to a Wan model."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from engine.components.samplers import Scheduler
from engine.config import SamplingConfig
from engine.models.samplers import CLASSES, followed


def make_wan_scheduler(pretrained: Mapping[str, Any], sampling: SamplingConfig, device: torch.device) -> Scheduler:
    """The sampler of a request, its timesteps set.

    Args:
        pretrained: the model's scheduler configuration, followed as :mod:`engine.models.samplers` says.
    """
    settings = followed(pretrained, CLASSES[sampling.scheduler])
    scheduler: Scheduler
    if sampling.scheduler == "unipc":
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=sampling.shift, **settings
        )
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=sampling.shift, **settings)
    scheduler.set_timesteps(sampling.steps, device=device)
    scheduler.set_begin_index(0)  # else each step searches its timestep and waits for the device
    return scheduler
