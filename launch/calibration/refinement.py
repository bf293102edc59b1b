"""Lists of computed steps improved by trial runs of the calibration's own prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dicache.calibration.file import Calibration, ComputeBudget
from dicache.calibration.placement import TRUST
from dicache.calibration.refine import refine
from dicache.gates.calibrated import CalibratedGate
from engine.progress import Progress
from launch.calibration.file import place, products_of
from launch.calibration.job import CalibrateJob
from launch.calibration.trials import Trials

_TRUSTS = (TRUST, 0.0, 0.375, 1.125)
"""Which trust in the growth of errors is best depends on the sampling, so lists for each of these are tried."""


def refine_budgets(
    job: CalibrateJob,
    calibration: Calibration,
    measured: Sequence[Mapping[str, Any]],
    trials: Trials,
    progress: Progress,
) -> Calibration:
    """The calibration with better lists for the shares that ``calibrate.refine`` names, where trials find any.

    Args:
        measured: for each prompt, as of :func:`launch.calibration.velocities.measure_products`.
        progress: told how many lists were tried, and how good the best one is.
    """
    asked, text = job.config.calibrate, calibration.model_dump_json()
    products = products_of(measured)
    placed = [place(job, measured, products, trust) for trust in _TRUSTS]
    budgets = {len(budget.compute): budget for budget in calibration.budgets}
    for count in sorted({len(calibration.nearest(share).compute) for share in asked.refine}):
        starts = [placements[count].compute for placements in placed if count in placements]
        progress.note(f"{1 - count / calibration.steps:.0%} of steps skipped: trying up to {asked.trials} lists")
        attempt = partial(trials.errors, text)
        compute, errors, tried = refine(starts, attempt, calibration.steps, asked.trials)
        first = attempt(starts[0], None)
        assert first is not None, "without another list to compare with, it is never given up"
        progress.note(f"  {tried} were tried: {sum(errors) / sum(first):.0%} of the error of the one that was placed")
        plan = CalibratedGate(compute, calibration.as_products(), calibration.step_sizes)
        damage = float(f"{plan.planned_damage:.6g}")
        budgets[count] = ComputeBudget(compute=compute, damage=damage, trials=tried)
    return calibration.model_copy(update={"budgets": tuple(budgets.values())})
