"""How measured numbers are spread over their samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from launch.bench.document import Spread


def spread(samples: Sequence[float]) -> Spread:
    """The median and percentiles of samples, by numpy's linear interpolation; of one sample all are that sample.

    Raises:
        ValueError: there are no samples, or one is NaN or infinite, of which JSON has none.
    """
    if not samples:
        raise ValueError("There are no samples to spread: measure at least one.")
    if not all(map(math.isfinite, samples)):
        raise ValueError(f"Samples must be finite, but are {list(samples)}.")
    median, p10, p90, p99 = (float(value) for value in np.percentile(samples, (50, 10, 90, 99)))
    return Spread(median=median, p10=p10, p90=p90, p99=p99, samples=len(samples))
