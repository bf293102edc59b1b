"""The denoise loop."""

from collections.abc import Callable

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


def denoise(
    experts: Experts,
    scheduler: Scheduler,
    latents: Tensor,
    on_step: OnStep,
    steps_done: int = 0,
    on_velocity: OnVelocity | None = None,
    on_pause: OnPause | None = None,
    corrector: Corrector | None = None,
) -> Tensor:
    """Turn noise into clean latents; every rank of a replica runs this with the same arguments.

    Args:
        scheduler: with its timesteps set, and in the state that the steps done have left it in.
        latents: float32 noise [samples, channels, frames, height, width], or what the steps done have made of it.
        on_step: called after each step with its timestep, every lane's plan and the new latents.
        steps_done: in an earlier run, which this one continues.
        on_velocity: shown each step's velocity of every guidance branch, of the shape of the latents and equal on every
            rank, before the sampler takes what they make.
        on_pause: told the steps done and the latents where a pause ends the loop; the step that it came at has
            changed neither sampler nor cache.
        corrector: takes the sampler's steps where skipped ones are to be mended.

    Raises:
        Paused, Cancelled: some rank's control word said so; on all ranks at the same step.
        NotFiniteError: a rank's activations, or the final latents, are not finite; on all ranks alike.
    """
    for index, timestep in enumerate(scheduler.timesteps[steps_done:], start=steps_done):
        step = Step(index, float(scheduler.sigmas[index]), float(scheduler.sigmas[index + 1]))
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
    if not latents.isfinite().all():  # no later step would look at what the last one did; all ranks hold the same
        raise NotFiniteError("The final latents are not finite: try another seed, a lower guidance or a wider dtype.")
    return latents


def draw_noise(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """Float32 noise of that shape from one CPU generator, so a seed means the same on any device and
    number of ranks, and the same as in a diffusers pipeline given that generator."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
