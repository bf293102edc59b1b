"""The samplers of diffusers that a request may ask for, and where one stands."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from engine.config import Config, SamplingConfig

Scheduler: TypeAlias = "UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler"


def make_hunyuan_scheduler(
    pretrained: dict[str, Any], sampling: SamplingConfig, device: torch.device
) -> FlowMatchEulerDiscreteScheduler:
    """The sampler of a request, its timesteps set: sigmas fall evenly from 1 before they are shifted."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pretrained, shift=sampling.shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, sampling.steps + 1)[:-1], device=device)
    scheduler.set_begin_index(0)  # else each step searches its timestep and waits for the device
    return scheduler


def load_scheduler_config(config: Config) -> dict[str, Any]:
    """What the checkpoint says about its sampler."""
    return dict(UniPCMultistepScheduler.load_config(config.model.path, subfolder="scheduler"))


def scheduler_state(scheduler: Scheduler) -> dict[str, Any]:
    """All attributes in which a scheduler keeps what it has seen."""
    return {name: value for name, value in vars(scheduler).items() if name != "_internal_dict"}  # its configuration


def restore_scheduler(scheduler: Scheduler, state: Mapping[str, Any]) -> None:
    """Put a scheduler that was made alike where another one was."""
    vars(scheduler).update(state)
