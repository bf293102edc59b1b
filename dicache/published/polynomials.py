"""TeaCache's published polynomials.

Source: ali-vilab/TeaCache at 7c10efc (Apache License 2.0), TeaCache4Wan2.1/teacache_generate.py and
TeaCache4HunyuanVideo/teacache_sample_video.py. Wan has two variants: ``use_ret_steps`` looks at the timestep as it
modulates the blocks, the other one at its embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from dicache.sums import StepSignal


@dataclass(frozen=True)
class Polynomial:
    """Estimates the relative change of the model's output from the relative change of a signal."""

    signal: StepSignal
    coefficients: tuple[float, ...]
    """Highest power first."""

    def __call__(self, change: float) -> float:
        return reduce(lambda value, coefficient: value * change + coefficient, self.coefficients, 0.0)


POLYNOMIALS: Mapping[str, Polynomial] = {
    "Wan2.1-T2V-1.3B": Polynomial(
        "timestep_embedding", (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01)
    ),
    "Wan2.1-T2V-14B": Polynomial(
        "timestep_embedding", (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404)
    ),
    "Wan2.1-I2V-14B-480P": Polynomial(
        "timestep_embedding", (-3.02331670e02, 2.23948934e02, -5.25463970e01, 5.87348440e00, -2.01973289e-01)
    ),
    "Wan2.1-I2V-14B-720P": Polynomial(
        "timestep_embedding", (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683)
    ),
    "HunyuanVideo": Polynomial(
        "modulated_input", (7.33226126e02, -4.01131952e02, 6.75869174e01, -3.14987800e00, 9.61237896e-02)
    ),
}

RETENTION_POLYNOMIALS: Mapping[str, Polynomial] = {
    "Wan2.1-T2V-1.3B": Polynomial(
        "timestep_modulation", (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02)
    ),
    "Wan2.1-T2V-14B": Polynomial(
        "timestep_modulation", (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01)
    ),
    "Wan2.1-I2V-14B-480P": Polynomial(
        "timestep_modulation", (2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01)
    ),
    "Wan2.1-I2V-14B-720P": Polynomial(
        "timestep_modulation", (8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02)
    ),
}
