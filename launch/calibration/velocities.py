"""The velocities of an uncached run: their inner products, and their weights in the final latents."""

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
    """Run a request without a cache and measure its velocities; collective over the replica.

    Keeps the velocities of all steps on the CPU, in float32: 16 MB a step for 81 frames of 832 × 480 with Wan.

    Returns:
        The measurements, equal on all ranks: ``products``, the inner products [steps × branches, steps × branches] of
        the branches' velocities; ``branches``, their names; ``sigmas``, the noise level of each step; ``sampler``, as
        of :func:`sampler_weights`; ``ratios`` and ``changes`` as of
        :class:`dicache.calibration.measurements.Measured`. And the final latents, float32 [samples, channels, frames,
        height, width] on the CPU.
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
    for part in every.split(1 << 18, dim=1):  # converted in parts, since all at once would double the memory
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
    """The absolute weight of each step's velocity in the final latents, if the model's response to changed latents is
    left out.

    A sampler is linear in velocities and latents, with coefficients that depend on the noise levels alone. So it is run
    on unit vectors, one element for each step. A first-order sampler gives |σ - σ_next|; UniPC's corrector moves weight
    between neighbouring steps, and the weights of its last steps differ by a factor of four.
    """
    scheduler = model.parts.make_scheduler(model.scheduler_config, request.sampling, torch.device("cpu"))
    each = torch.eye(len(scheduler.timesteps))[
        :, None, :, None, None
    ]  # velocity of step i: 1 in element i of the batch
    latents = torch.zeros_like(each[0])[None]
    for index, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(each[index][None], timestep, latents, return_dict=False)[0]
    return [abs(weight) for weight in latents.flatten().tolist()]
