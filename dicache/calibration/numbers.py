"""MagCache's table and TeaCache's polynomial as `lockstep calibrate` found them, where nothing is published."""

from typing import get_args

from dicache.calibration.file import read_calibration
from dicache.config import CacheConfig
from dicache.published.polynomials import Polynomial
from dicache.sums import StepSignal


def calibrated_ratios(config: CacheConfig, num_steps: int) -> dict[str, tuple[float, ...]]:
    """γ of every step, for each guidance branch; a calibration of one branch holds for both.

    Raises:
        ValueError: the file cannot be read, has none, or is of other steps.
    """
    assert config.calibration is not None
    seen = read_calibration(config.calibration)
    if "cond" not in seen.ratios:
        raise ValueError(_lacks(config, "ratios for magcache"))
    if seen.steps != num_steps:
        raise ValueError(other_steps(config, seen.steps, num_steps))
    return {"cond": seen.ratios["cond"], "uncond": seen.ratios.get("uncond", seen.ratios["cond"])}


def calibrated_polynomial(config: CacheConfig) -> Polynomial:
    """That of the signal that TeaCache looks at in this family of models.

    Raises:
        ValueError: the file cannot be read, or has none.
    """
    assert config.calibration is not None
    found = read_calibration(config.calibration).polynomials
    wanted = ("timestep_modulation" if config.use_ret_steps else "timestep_embedding", "modulated_input")
    for signal in get_args(StepSignal):
        if signal in wanted and signal in found:
            return Polynomial(signal, found[signal])
    raise ValueError(_lacks(config, "polynomial for teacache"))


def other_steps(config: CacheConfig, steps: int, num_steps: int) -> str:
    """A sentence for a calibration of other steps."""
    return (
        f"cache.calibration {str(config.calibration)!r} is of {steps} steps, and this request has {num_steps}: "
        "calibrate again for it."
    )


def _lacks(config: CacheConfig, what: str) -> str:
    return f"cache.calibration {str(config.calibration)!r} has no {what}: calibrate again."
