"""MagCache's table and TeaCache's polynomial as `lockstep calibrate` measured them, where none are published."""

from pathlib import Path
from typing import get_args

from dicache.calibration.file import other_steps, read_calibration
from dicache.published.polynomials import Polynomial
from dicache.sums import StepSignal


def calibrated_ratios(file: Path, num_steps: int) -> dict[str, tuple[float, ...]]:
    """γ of every step, for each guidance branch. A calibration of one branch holds for both.

    Raises:
        ValueError: the file cannot be read, has no ratios, or is of another number of steps.
    """
    seen = read_calibration(file)
    if "cond" not in seen.ratios:
        raise ValueError(_lacks(file, "ratios for magcache"))
    if seen.steps != num_steps:
        raise ValueError(other_steps(file, seen.steps, num_steps))
    return {"cond": seen.ratios["cond"], "uncond": seen.ratios.get("uncond", seen.ratios["cond"])}


def calibrated_polynomial(file: Path, use_ret_steps: bool) -> Polynomial:
    """The polynomial of the signal that TeaCache looks at in this family of models.

    Raises:
        ValueError: the file cannot be read, or has none.
    """
    found = read_calibration(file).polynomials
    wanted = ("timestep_modulation" if use_ret_steps else "timestep_embedding", "modulated_input")
    for signal in get_args(StepSignal):
        if signal in wanted and signal in found:
            return Polynomial(signal, found[signal])
    raise ValueError(_lacks(file, "polynomial for teacache"))


def _lacks(file: Path, what: str) -> str:
    return f"cache.calibration {str(file)!r} has no {what}: calibrate again."
