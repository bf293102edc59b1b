"""From the measurements of the prompts to the calibration file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicache.calibration.file import Calibration, ComputeBudget, hash_prompt
from dicache.calibration.measurements import fit_polynomial, mean_ratios
from dicache.calibration.placement import TRUST, StepPlacement, growth, place_steps
from engine.denoise.guidance import mixing
from engine.execution.versions import describe_versions
from engine.storage.files import StagedFiles
from launch.calibration.job import CalibrateJob

_SHARES = tuple(percent / 100 for percent in range(30, 81, 5))  # of the steps, skipped


def build(job: CalibrateJob, measured: Sequence[Mapping[str, Any]]) -> Calibration:
    """The calibration: lists of computed steps for each share, and the numbers of other methods.

    Args:
        measured: for each prompt, as of :func:`launch.calibration.velocities.measure_products`.
    """
    one = measured[0]
    products = products_of(measured)
    placements = place(job, measured, products)
    counts = dict.fromkeys(round(len(one["sigmas"]) * (1 - share)) for share in _SHARES)
    budgets = [
        ComputeBudget(compute=placement.compute, damage=float(f"{placement.damage:.6g}"))
        for count in counts
        if (placement := placements.get(count)) is not None
    ]
    return Calibration(
        made_with=dict(job.made_with),
        versions=describe_versions(),
        prompts=tuple(hash_prompt(request.prompts[0]) for request in job.requests),
        steps=len(one["sigmas"]),
        step_sizes=tuple(float(f"{size:.6g}") for size in _sizes(one, TRUST)),
        branches=tuple(one["branches"]),
        mixing=mixing(job.config.sampling.guidance, len(one["branches"])),
        products=tuple(tuple(products[row, : row + 1].tolist()) for row in range(len(products))),
        budgets=tuple(budgets),
        **_of_other_methods(measured),
    )


def write(job: CalibrateJob, calibration: Calibration) -> None:
    """Write the calibration to the job's output file."""
    with StagedFiles() as files:
        files.stage(job.output).write_text(readable(calibration), encoding="utf-8")


def products_of(measured: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Inner products of velocities, averaged over the prompts: float64 [steps × branches, steps × branches], rounded
    as in the file."""
    return _rounded(np.mean([known["products"] for known in measured], axis=0))


def place(
    job: CalibrateJob, measured: Sequence[Mapping[str, Any]], products: NDArray[np.float64], trust: float = TRUST
) -> dict[int, StepPlacement]:
    """The best list of steps for each number of computed steps.

    Args:
        products: as of :func:`products_of`.
        trust: as of :func:`dicache.calibration.placement.growth`.
    """
    num_steps, num_branches = len(measured[0]["sigmas"]), len(measured[0]["branches"])
    by_step = products.reshape(num_steps, num_branches, num_steps, num_branches)
    return place_steps(by_step, mixing(job.config.sampling.guidance, num_branches), _sizes(measured[0], trust))


def _sizes(one: Mapping[str, Any], trust: float) -> list[float]:
    return [taken * growth(sigma, trust) for taken, sigma in zip(one["sampler"], one["sigmas"], strict=True)]


def _of_other_methods(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """MagCache's table and TeaCache's polynomials, fitted as their authors do it, over all prompts."""
    ratios = {
        branch: tuple(round(ratio, 5) for ratio in means)
        for branch, means in mean_ratios([run["ratios"] for run in runs]).items()
    }
    points = {name: [point for run in runs for point in run["changes"][name]] for name in runs[0]["changes"]}
    return {"ratios": ratios, "polynomials": {name: fit_polynomial(found) for name, found in points.items() if found}}


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 10 significant digits; velocities of neighbouring steps differ in the third or fourth."""
    return np.vectorize(lambda value: float(f"{value:.10g}"))(values)


def readable(calibration: Calibration) -> str:
    """JSON with a line for each list of numbers."""
    return re.sub(r"(?<=[\d,\[\"])\s+(?=[-\d\]])", "", calibration.model_dump_json(indent=1)) + "\n"
