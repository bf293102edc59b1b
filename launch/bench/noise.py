"""The ratio of two sets of measured times, with its noise.

Times are compared as logarithms, so that a difference is the logarithm of a ratio. Their arrays are [rounds, units]: a
unit is a prompt with its seed, which costs the same in every round; NaN where it was not made. The standard error is
bootstrapped over whole rounds, for what the machine does beside lasts longer than a video and is common to those of a
round. The interval is Student's, since rounds are few: B. Efron and R. Tibshirani, An Introduction to the Bootstrap
(1993), chapters 6 and 12; the degrees of freedom of two runs are Welch's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Logs = NDArray[np.float64]
CONFIDENCE = 0.995
"""That the interval holds the true ratio, were the errors normal and known. With few rounds a bootstrapped median's are
too small, and 97 to 99 of 100 intervals hold it; half of the others are on the side that raises an alarm."""
_RESAMPLES = 400
_LEAST_ERROR = 0.001
"""Times that are equal to the last digit do not prove a machine without noise."""
SPEED_DRIFT = 2.0
"""The drift from one run to the next over the deviation of the rounds of a run. Measured on two cores of a virtual
machine, eight runs of one build of some 17 s: 13% between runs, 6% within."""
WAITS_DRIFT = 0.5
"""The same of waits over work, which the machine's speed is not in; what may differ is how busy its disks are."""


@dataclass(frozen=True)
class Ratio:
    """B's time over A's, and the interval that holds the true ratio in 97 of 100 cases or more."""

    ratio: float
    low: float
    high: float

    @property
    def inverse(self) -> Ratio:
        return Ratio(1 / self.ratio, 1 / self.high, 1 / self.low)


def paired(a: Logs, b: Logs) -> Ratio | None:
    """The ratio in one run, in which both made each unit of each round one after the other, so that the drift of the
    machine and what the units cost are in neither.

    Args:
        a, b: [rounds, units], of the same rounds and units.

    Returns:
        None where there are fewer than two pairs, which tell nothing of their noise.
    """
    differences = b - a
    differences = differences[~np.isnan(differences).all(axis=1)]
    if len(differences) < 3:  # then the pairs are what is resampled
        differences = differences[~np.isnan(differences)][:, None]
    if len(differences) < 2:
        return None
    error = max(_error(differences, _over_all), _LEAST_ERROR)
    return _interval(float(np.nanmedian(differences)), error, len(differences) - 1)


def separate(a: Logs, b: Logs, drift: float = SPEED_DRIFT) -> Ratio | None:
    """The ratio of two runs. That the machine was faster in one of them as a whole cannot be seen in either, and is
    allowed for: by the deviation of its rounds, times ``drift``.

    Args:
        a, b: [rounds, units], of the same units in the same order; rounds may differ in number.
        drift: the deviation from run to run over that of the rounds of a run.

    Returns:
        None where one has fewer than two rounds, which tell nothing of the noise.
    """
    a, b = (logs[~np.isnan(logs).all(axis=1)] for logs in (a, b))
    if min(len(a), len(b)) < 2:
        return None
    errors = [max(_error(logs, _by_unit), _LEAST_ERROR) for logs in (a, b)]
    unseen = drift * math.sqrt(sum(_deviation(logs) ** 2 for logs in (a, b)) / 2)
    # Welch and Satterthwaite; the drift is known as well as the deviations that it is made of
    parts = [error**2 + unseen**2 for error in errors]
    freedom = sum(parts) ** 2 / sum(p**2 / (len(logs) - 1) for p, logs in zip(parts, (a, b), strict=True))
    return _interval(_estimate(b) - _estimate(a), math.sqrt(sum(parts)), freedom)


def _estimate(logs: Logs) -> float:
    return float(_by_unit(logs[None])[0])


def _by_unit(resampled: Logs) -> Logs:
    """For each of [resamples, rounds, units], the mean over units of the median over rounds."""
    if not np.isnan(resampled).any():
        return np.median(resampled, axis=1).mean(axis=1)
    with warnings.catch_warnings():  # a resample may leave a unit out
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.nanmedian(resampled, axis=1), axis=1)


def _over_all(resampled: Logs) -> Logs:
    """For each of [resamples, rounds, units], the median of all."""
    flat = resampled.reshape(len(resampled), -1)
    return np.nanmedian(flat, axis=1) if np.isnan(flat).any() else np.median(flat, axis=1)


def _error(logs: Logs, statistic: Callable[[Logs], Logs]) -> float:
    """The bootstrapped standard error. It is too small by a factor, since resamples deviate from the sample's mean and
    not from the true one."""
    rounds = len(logs)
    chosen = np.random.default_rng(0).integers(rounds, size=(_RESAMPLES, rounds))
    found = statistic(logs[chosen])
    return float(np.nanstd(found)) * math.sqrt(rounds / (rounds - 1))


def _deviation(logs: Logs) -> float:
    """Of the rounds of a run, once what each unit costs is taken out."""
    by_round = np.nanmean(logs - np.nanmedian(logs, axis=0), axis=1)
    return float(np.std(by_round, ddof=1))


def _interval(difference: float, error: float, freedom: float) -> Ratio:
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    # far beyond what floats can hold for two rounds that differ a lot
    low, high = (math.exp(max(-700.0, min(700.0, difference + sign * half))) for sign in (-1, 1))
    return Ratio(math.exp(difference), low, high)
