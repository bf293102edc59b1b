"""Fits three efficiencies to one half of the published figures, and compares the model with the other half."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from launch.planner.least_squares import fit
from launch.planner.predict import predict
from launch.planner.published import Figure, halves
from launch.planner.software import Efficiencies

_START: Mapping[str, float] = {"products": 0.75, "attention": 1.0, "elementwise": 1.0}
_PULL = 0.15
"""How firmly an efficiency is held to what was measured or counted, against the errors of the figures."""


def predicted_seconds(figure: Figure, efficiencies: Efficiencies) -> float:
    """What the model says of a figure, in its quantity."""
    prediction = predict(figure.workload, figure.plan, fitted=efficiencies)
    if figure.quantity == "step":
        return prediction.computed_step_seconds
    return prediction.cache_on


def error_of(figure: Figure, efficiencies: Efficiencies) -> float:
    """Predicted over published, less 1."""
    return predicted_seconds(figure, efficiencies) / figure.seconds - 1


def fit_efficiencies(figures: Sequence[Figure]) -> Efficiencies:
    """The efficiencies that bring the model nearest to the figures, pulled to those that were measured or counted."""

    def errors(values: Mapping[str, float]) -> list[float]:
        return [math.log1p(error_of(figure, Efficiencies(**values))) for figure in figures]

    return Efficiencies(**fit(errors, _START, dict.fromkeys(_START, _PULL)))


def errors_of(figures: Sequence[Figure], efficiencies: Efficiencies) -> tuple[float, float]:
    """The median and the largest of the errors, without signs."""
    sizes = [abs(error_of(figure, efficiencies)) for figure in figures]
    return median(sizes), max(sizes)


def both_ways() -> list[tuple[Efficiencies, list[Figure], list[Figure]]]:
    """Fitted to one half and judged by the other, and the other way round."""
    first, second = halves()
    return [(fit_efficiencies(first), first, second), (fit_efficiencies(second), second, first)]
