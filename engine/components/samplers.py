"""diffusers' samplers: made, and their state saved and restored."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from engine.config import Config, SamplingConfig
from engine.models.samplers import CLASSES, followed
from parallel.diffusers_private import CONFIGURATION_ATTRIBUTE

Scheduler: TypeAlias = "UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler"


def make_hunyuan_scheduler(
    pretrained: Mapping[str, Any], sampling: SamplingConfig, device: torch.device
) -> FlowMatchEulerDiscreteScheduler:
    """The sampler of a HunyuanVideo model, with its timesteps set. Sigmas fall evenly from 1 before the shift."""
    settings = followed(pretrained, CLASSES["euler"])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=sampling.shift, **settings)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, sampling.steps + 1)[:-1], device=device)
    scheduler.set_begin_index(0)  # else each step searches its timestep and waits for the device
    return scheduler


def load_scheduler_config(config: Config) -> dict[str, Any]:
    """The model's scheduler_config.json."""
    return dict(UniPCMultistepScheduler.load_config(config.model.path, subfolder="scheduler"))


def scheduler_state(scheduler: Scheduler) -> dict[str, Any]:
    """All attributes of a scheduler but its configuration: what it has kept of earlier steps, and its timesteps."""
    return {name: value for name, value in vars(scheduler).items() if name != CONFIGURATION_ATTRIBUTE}


def restore_scheduler(scheduler: Scheduler, state: Mapping[str, Any]) -> None:
    """Give a scheduler the state of another one with the same configuration."""
    vars(scheduler).update(state)
