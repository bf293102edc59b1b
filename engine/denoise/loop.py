"""The denoise loop."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dicache.controller import Lane, Plan, Step
from engine.components.samplers import Scheduler
from engine.denoise.corrector import Corrector
from engine.denoise.experts import Experts
from engine.errors import Paused
from parallel.agreement import NotFiniteError

OnStep = Callable[[Step, float, dict[Lane, Plan], Tensor], None]
OnVelocity = Callable[[Step, dict[str, Tensor]], None]
OnPause = Callable[[int, Tensor], None]
AroundStep = Callable[[int], AbstractContextManager[Any]]


def denoise(
    experts: Experts,
    scheduler: Scheduler,
    latents: Tensor,
    on_step: OnStep,
    steps_done: int = 0,
    on_velocity: OnVelocity | None = None,
    on_pause: OnPause | None = None,
    corrector: Corrector | None = None,
    around_step: AroundStep = lambda index: nullcontext(),
) -> Tensor:
    """Turn noise into clean latents; every rank of a replica runs this with the same arguments.

    Args:
        scheduler: with its timesteps set, and in its state after the steps done.
        latents: float32 noise [samples, channels, frames, height, width], or the latents after the steps done.
        on_step: called after each step with its timestep, every lane's plan and the new latents.
        steps_done: by an earlier run, which this one continues.
        on_velocity: called before the sampler's step with the velocity of every guidance branch, each in the shape of
            the latents and equal on every rank.
        on_pause: called with the steps done and the latents if a pause ends the loop. The step that was interrupted has
            changed neither sampler nor cache.
        corrector: takes the sampler's steps and corrects skipped ones; None leaves them as they are.
        around_step: called with the index of each step, all of which runs inside, ``on_step`` too.

    Raises:
        Paused, Cancelled: some rank's control word said so; on all ranks at the same step.
        NotFiniteError: a rank's activations, or the final latents, are not finite; on all ranks alike.
    """
    for index, timestep in enumerate(scheduler.timesteps[steps_done:], start=steps_done):
        step = Step(index, float(scheduler.sigmas[index]), float(scheduler.sigmas[index + 1]))
        with around_step(index):
            try:
                velocity, branches, plans = experts.predict(latents, timestep, step)
            except Paused:
                if on_pause is not None:
                    on_pause(index, latents)
                raise
            if on_velocity is not None:
                on_velocity(step, branches)
            if corrector is None:
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            else:
                latents = corrector.advance(step, timestep, latents, velocity, plans)
            on_step(step, float(timestep), plans, latents)
    latents = experts.finish(latents)
    if not latents.isfinite().all():  # not seen by any later step; equal on all ranks, so all raise
        raise NotFiniteError("The final latents are not finite: try another seed, a lower guidance or a wider dtype.")
    return latents


def draw_noise(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """Float32 noise from one CPU generator: a seed gives the same noise on any device and number of ranks, and in a
    diffusers pipeline with that generator."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
