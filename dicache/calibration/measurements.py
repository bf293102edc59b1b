"""Measurements of uncached runs for published gates: ratios of residual sizes (MagCache), and the change of the model's
output with that of TeaCache's signals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from dicache.steps import Lane, Step
from dicache.sums import StepSignal

DEGREE = 4
"""Degree of TeaCache's polynomials."""

Sums = dict[tuple[str, int, str], float]
"""Sums over tokens, by guidance branch, step and quantity."""


@dataclass(frozen=True)
class Measured:
    """What one request has shown, over the tokens of all ranks."""

    ratios: Mapping[str, Sequence[float]]
    """For each branch and step, the mean over the tokens of ‖r‖ / ‖r of the step before‖; 1 for the first step."""
    changes: Mapping[str, Sequence[tuple[float, float]]]
    """For each signal, pairs of relative L1 changes, of signal and model output, of all branches and steps."""


class Measurements:
    """Adds up one request's sums over this rank's tokens."""

    def __init__(self, signals: Sequence[str]) -> None:
        """
        Args:
            signals: TeaCache's signals that the model can show.
        """
        self.signals: tuple[StepSignal, ...] = tuple(name for name in get_args(StepSignal) if name in signals)
        self.sums: Sums = {}
        self._before: dict[Lane, dict[str, Tensor]] = {}

    def see(self, step: Step, lane: Lane, x: Tensor, y: Tensor, velocity: Tensor, shown: Mapping[str, Tensor]) -> None:
        """Add a computed step to the sums.

        Args:
            x: input of block 0, [1, tokens_local, dim]. y: output of all blocks, same shape.
            velocity: the model's output for these tokens, [1, tokens_local, features].
            shown: the signals. One that all tokens have in common is empty on all ranks but one, so that it counts
                once.
        """
        now: dict[str, Tensor] = {
            "residual": y - x,
            "velocity": velocity,
            **{name: shown[name] for name in self.signals},
        }
        before = self._before.get(lane)
        self._before[lane] = {name: tensor.detach().clone() for name, tensor in now.items()}
        if before is None:
            return
        ratios = _norms(now["residual"]) / _norms(before["residual"])
        found = {"ratio": float(ratios.sum()), "tokens": float(ratios.numel())}
        for name in ("velocity", *self.signals):
            old = before[name].double()
            found[f"change of {name}"] = float((now[name].double() - old).abs().sum())
            found[f"size of {name}"] = float(old.abs().sum())
        self.sums |= {(lane.branch, step.index, name): value for name, value in found.items()}


def _norms(tokens: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float64)


def conclude(of_ranks: Iterable[Sums], signals: Sequence[str]) -> Measured:
    """The request's ratios and changes from the sums of all ranks, which are added in the order of the ranks."""
    total: Sums = {}
    for sums in of_ranks:
        for key, value in sums.items():
            total[key] = total.get(key, 0.0) + value
    places = sorted({(branch, step) for branch, step, _ in total})
    ratios: dict[str, list[float]] = {}
    for branch, step in places:
        ratios.setdefault(branch, [1.0]).append(total[branch, step, "ratio"] / total[branch, step, "tokens"])
    changes: dict[str, list[tuple[float, float]]] = {name: [] for name in signals}
    for branch, step in places:
        relative = {
            name: total[branch, step, f"change of {name}"] / max(total[branch, step, f"size of {name}"], 1e-30)
            for name in ("velocity", *signals)
        }
        for name in signals:
            changes[name].append((relative[name], relative["velocity"]))
    return Measured(ratios, changes)


def mean_ratios(measured: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, tuple[float, ...]]:
    """The mean over the requests, for each branch."""
    return {branch: tuple(np.mean([ratios[branch] for ratios in measured], axis=0).tolist()) for branch in measured[0]}


def fit_polynomial(points: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The polynomial that gives the output's change from the signal's, by least squares.

    Args:
        points: pairs of changes, of the signal and of the output.

    Returns:
        Coefficients, highest power first. The degree is 4, as with TeaCache's authors, or less if there are too few
        different points.
    """
    changes, outputs = np.array(points, dtype=np.float64).reshape(-1, 2).T
    degree = min(DEGREE, len(np.unique(changes.round(12))) - 1)
    return tuple(np.polynomial.Polynomial.fit(changes, outputs, max(degree, 0)).convert().coef[::-1].tolist())
