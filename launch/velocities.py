"""The guided velocities of an uncached run, and their inner products."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from dicache.measurements import Measurements, conclude
from dicache.steps import Step
from engine.engine import Engine
from engine.loaded import LoadedModel
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.broadcast import objects_of_all


def measure_gram(model: LoadedModel, request: GenerationRequest, progress: Progress) -> dict[str, Any]:
    """Run a request without a cache; collective over the replica, and equal on all of its ranks.

    Holds the velocities of all steps at once, in float32 on the CPU: 8 MB a step for 81 frames of 832 × 480 with Wan.

    Returns:
        ``gram``: inner products [steps, steps] of the guided velocities, ``step_sizes``: |σ - σ_next|, and ``ratios``
        and ``changes`` as in :class:`dicache.measurements.Measured`.
    """
    measurements = Measurements(model.facts.family.signals)
    velocities: list[Tensor] = []
    sizes: list[float] = []

    def keep(step: Step, velocity: Tensor) -> None:
        velocities.append(velocity.flatten().float().cpu())
        sizes.append(abs(step.sigma - step.sigma_next))

    Engine(model, progress).generate(request, on_velocity=keep, observer=measurements)
    measured = conclude(objects_of_all(measurements.sums, model.ranks), measurements.signals)
    every = torch.stack(velocities)
    gram = torch.zeros(len(every), len(every), dtype=torch.float64)
    for part in every.split(1 << 18, dim=1):  # in float64, but not all of them at once
        wide = part.double()
        gram += wide @ wide.T
    return {"gram": gram.tolist(), "step_sizes": sizes, **asdict(measured)}
