"""The velocities of an uncached run, their inner products, and what the sampler makes of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from dicache.calibration.measurements import Measurements, conclude
from dicache.steps import Step
from engine.engine import Engine
from engine.execution.loaded import LoadedModel
from engine.request import GenerationRequest
from parallel.broadcast import objects_of_all


def measure_products(engine: Engine, request: GenerationRequest) -> tuple[dict[str, Any], Tensor]:
    """Run a request without a cache; collective over the replica, and equal on all of its ranks.

    Holds the velocities of all steps at once, in float32 on the CPU: 16 MB a step for 81 frames of 832 × 480 with Wan.

    Returns:
        ``products``: inner products [steps × branches, steps × branches] of the branches' velocities, ``branches``:
        their names, ``sigmas``: the noise level of each step, ``sampler``: as of :func:`sampler_weights`; ``ratios``
        and ``changes`` as in :class:`dicache.calibration.measurements.Measured`. And the final latents, on the CPU.
    """
    model = engine.model
    measurements = Measurements(model.facts.family.signals)
    velocities: list[Tensor] = []
    sigmas: list[float] = []
    names: list[str] = []

    def keep(step: Step, branches: dict[str, Tensor]) -> None:
        names[:] = branches
        velocities.extend(velocity.flatten().float().cpu() for velocity in branches.values())
        sigmas.append(step.sigma)

    latents = engine.generate(request, on_velocity=keep, observer=measurements).latents
    measured = conclude(objects_of_all(measurements.sums, model.ranks), measurements.signals)
    every = torch.stack(velocities)
    products = torch.zeros(len(every), len(every), dtype=torch.float64)
    for part in every.split(1 << 18, dim=1):  # in float64, but not all of them at once
        wide = part.double()
        products += wide @ wide.T
    found = {
        "products": products.tolist(),
        "branches": names,
        "sigmas": sigmas,
        "sampler": sampler_weights(model, request),
        **asdict(measured),
    }
    return found, latents.cpu()


def sampler_weights(model: LoadedModel, request: GenerationRequest) -> list[float]:
    """How much of each step's velocity the sampler has put into the final latents, were it not for what the model makes
    of them in between.

    A sampler adds up velocities and latents with numbers that depend on the noise levels alone, so it is asked
    what it makes of one velocity after the other. A first-order one gives |σ - σ_next|; UniPC's corrector moves weight
    between neighbours, and its last steps differ by a factor of four.
    """
    scheduler = model.parts.make_scheduler(model.scheduler_config, request.sampling, torch.device("cpu"))
    each = torch.eye(len(scheduler.timesteps))[:, None, :, None, None]  # a batch with one step's velocity in each
    latents = torch.zeros_like(each[0])[None]
    for index, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(each[index][None], timestep, latents, return_dict=False)[0]
    return [abs(weight) for weight in latents.flatten().tolist()]
