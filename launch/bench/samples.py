"""The samples of two measurements as arrays that can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from launch.bench.document import Sample
from launch.bench.noise import Logs

Figure = Callable[[Sample], float | None]
"""A time of a sample in seconds, or None where it has none."""


def seconds(stage: str, at_reference_speed: bool = False) -> Figure:
    """Of a stage, without the time that other processes had the processor.

    Args:
        at_reference_speed: over the seconds of the reference, for samples of two runs.
    """

    def figure(sample: Sample) -> float | None:
        value = sample.seconds.get(stage, 0.0) - sample.queued_seconds.get(stage, 0.0)
        return value / _speed(sample, at_reference_speed) if value > 0 else None

    return figure


def step(skipped: bool, at_reference_speed: bool = False) -> Figure:
    """The median of the computed or of the skipped steps."""

    def figure(sample: Sample) -> float | None:
        steps = zip(sample.step_seconds, sample.step_actions, strict=False)
        found = [value for value, action in steps if (action == "skip") is skipped and value > 0]
        return median(found) / _speed(sample, at_reference_speed) if found else None

    return figure


def with_waits(stage: str) -> Figure:
    """Seconds that a stage takes for each in which it works or could: 1 where it never sleeps or waits. The machine's
    speed is not in it. The time in which others have the processor counts as work: most waits grow with it."""

    def figure(sample: Sample) -> float | None:
        idle = sample.idle_seconds.get(stage)
        taken = sample.seconds.get(stage, 0.0)
        if idle is None or taken <= 0:
            return None
        return _over_work(taken, idle)

    return figure


def step_with_waits(sample: Sample) -> float | None:
    """The same of a denoise step, the median over all steps. A pause of the whole machine, which looks like a wait, is
    in few of them."""
    steps = zip(sample.step_seconds, sample.step_idle_seconds, strict=False)
    found = [_over_work(taken, idle) for taken, idle in steps if taken > 0]
    return median(found) if found else None


def _over_work(taken: float, idle: float) -> float:
    return taken / max(taken - idle, 1e-3 * taken)


def _speed(sample: Sample, at_reference_speed: bool) -> float:
    return sample.reference_seconds or 1.0 if at_reference_speed else 1.0


@dataclass(frozen=True)
class Pair:
    """Samples of A and of B, of the prompts and seeds that both have made."""

    a: Sequence[Sample]
    b: Sequence[Sample]
    by_unit: bool
    """Whether prompts and seeds are told apart; else all samples of a round are of one kind."""

    @classmethod
    def of(cls, a: Sequence[Sample], b: Sequence[Sample], same_prompts: bool = True) -> Pair:
        common = {_unit(sample) for sample in a} & {_unit(sample) for sample in b}
        if not (same_prompts and common):
            return cls(a, b, by_unit=False)
        given, other = ([sample for sample in each if _unit(sample) in common] for each in (a, b))
        return cls(given, other, by_unit=True)

    @property
    def has_reference(self) -> bool:
        return all(sample.reference_seconds for sample in (*self.a, *self.b))

    def logs(self, figure: Figure) -> tuple[Logs, Logs] | None:
        """Both as logarithms, [rounds, units], with the same units; None where one has no such time."""
        a, b = (self._grid(each, figure) for each in (self.a, self.b))
        if not self.by_unit:
            a, b = (_by_round(each) for each in (a, b))
        if any(np.isnan(each).all() for each in (a, b)):
            return None
        return a, b

    def _grid(self, samples: Sequence[Sample], figure: Figure) -> Logs:
        units = {unit: column for column, unit in enumerate(sorted({_unit(sample) for sample in samples}))}
        grid = np.full((1 + max(sample.round for sample in samples), len(units)), math.nan)
        for sample in samples:
            if (value := figure(sample)) is not None:
                grid[sample.round, units[_unit(sample)]] = math.log(value)
        return grid


def _by_round(grid: Logs) -> Logs:
    """[rounds, 1]: the mean over units; NaN for a round without any."""
    counted = np.maximum((~np.isnan(grid)).sum(axis=1, keepdims=True), 1)
    means = np.nansum(grid, axis=1, keepdims=True) / counted
    return np.where(np.isnan(grid).all(axis=1, keepdims=True), math.nan, means)


def _unit(sample: Sample) -> tuple[int, int]:
    return sample.prompt, sample.seed
