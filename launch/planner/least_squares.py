"""Fits positive parameters so that predictions come near measurements, as ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_ROUNDS = 60
_DIFFERENCE = 1e-4
_SMALLEST_STEP, _LARGEST_STEP = 1e-7, 1.0


def fit(
    errors: Callable[[Mapping[str, float]], Sequence[float]], start: Mapping[str, float], pull: Mapping[str, float]
) -> dict[str, float]:
    """Minimise the squares of ``errors`` and of pull × log(parameter / start), by damped Gauss-Newton steps in the
    parameters' logarithms.

    Args:
        errors: logarithms of predicted over measured, for given parameters.
        start: positive values, which the fit begins at and is pulled to.
        pull: how strongly; a parameter that no measurement depends on stays where it is.

    Returns:
        The fitted parameters.
    """
    names = list(start)
    begin = np.log([start[name] for name in names])
    pulls = np.array([pull[name] for name in names])

    def residuals(logs: np.ndarray) -> np.ndarray:
        values = {name: math.exp(log) for name, log in zip(names, logs, strict=True)}
        return np.concatenate([np.asarray(errors(values), dtype=float), pulls * (logs - begin)])

    logs, damping = begin.copy(), 1e-3
    now = residuals(logs)
    for _ in range(_ROUNDS):
        jacobian = np.column_stack(
            [(residuals(logs + _DIFFERENCE * unit) - now) / _DIFFERENCE for unit in np.eye(len(names))]
        )
        step = np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(len(names)), -jacobian.T @ now)
        step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        after = residuals(logs + step)
        if after @ after < now @ now:
            logs, now, damping = logs + step, after, max(damping / 3, 1e-9)
        else:
            damping *= 4
        if np.abs(step).max() < _SMALLEST_STEP or damping > 1e9:
            break
    return {name: math.exp(log) for name, log in zip(names, logs, strict=True)}
