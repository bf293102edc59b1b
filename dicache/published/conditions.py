"""The sampling with which the authors of TeaCache and MagCache measured their numbers: the defaults of their scripts.

Sources: teacache_generate.py and magcache_generate.py take Wan's own defaults (generate.py of Wan-Video/Wan2.1 and
wan/configs of Wan2.2), teacache_sample_video.py and magcache_sample_video.py HunyuanVideo's (--infer-steps 50,
--flow-shift 7, --embedded-cfg-scale 6).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Conditions:
    """A way to sample, as far as published numbers depend on it."""

    steps: int
    """Denoise steps."""
    shift: float
    """Flow shift."""
    guidance: float
    """Guidance scale of the first transformer."""

    def __str__(self) -> str:
        return f"{self.steps} steps, shift {self.shift:g} and guidance {self.guidance:g}"


_HUNYUAN = Conditions(50, 7.0, 6.0)
MEASURED_AT: Mapping[str, Conditions] = {
    "Wan2.1-T2V-1.3B": Conditions(50, 5.0, 5.0),
    "Wan2.1-T2V-14B": Conditions(50, 5.0, 5.0),
    "Wan2.1-I2V-14B-480P": Conditions(40, 3.0, 5.0),
    "Wan2.1-I2V-14B-720P": Conditions(40, 5.0, 5.0),
    "Wan2.2-T2V-A14B": Conditions(40, 12.0, 4.0),
    "Wan2.2-I2V-A14B": Conditions(40, 5.0, 3.5),
    "Wan2.2-TI2V-5B": Conditions(50, 5.0, 5.0),
    "Wan2.2-TI2V-5B-image": Conditions(50, 5.0, 5.0),
    "HunyuanVideo": _HUNYUAN,
    "HunyuanVideo-544p": _HUNYUAN,
    "HunyuanVideo-720p": _HUNYUAN,
}


def carry_over(ratios: Sequence[float], num_steps: int, shift: float, measured_shift: float) -> tuple[float, ...]:
    """A table of ratios of residual sizes for a sampler with another flow shift, and perhaps other steps.

    The product of the ratios up to a step is the relative size of the residual there. It is taken as a function of the
    noise level, and its logarithm is interpolated linearly at the levels of the new sampler. At the noise level
    σ = s u / (1 + (s - 1) u), where s is the shift, the share u of the steps is left. With another shift s' the share
    at the same level is k u / (1 + (k - 1) u) with k = s / s'.

    Args:
        ratios: γ of each measured step; the first is not used.
        num_steps: denoise steps of the request.
        shift: of the request.
        measured_shift: of the measurement.

    Returns:
        γ of each of ``num_steps`` steps.
    """
    sums = [0.0]
    for ratio in ratios[1:]:
        sums.append(sums[-1] + math.log(ratio))
    k, last = shift / measured_shift, max(num_steps - 1, 1)

    def log_size(index: int) -> float:
        left = 1 - index / last
        position = (1 - k * left / (1 + (k - 1) * left)) * (len(sums) - 1)
        below = min(int(position), len(sums) - 2) if len(sums) > 1 else 0
        above = min(below + 1, len(sums) - 1)
        return sums[below] + (position - below) * (sums[above] - sums[below])

    sizes = [log_size(index) for index in range(num_steps)]
    return (ratios[0], *(math.exp(size - before) for before, size in pairwise(sizes)))
