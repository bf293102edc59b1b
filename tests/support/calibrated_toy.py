"""Velocities of a toy whose every number is known, and the steps that a calibration on them places."""

import numpy as np

from dicache.calibration.placement import place_steps

STEPS, PROMPTS, DIM = 8, 3, 40
SIZES = np.linspace(0.05, 0.3, STEPS)
MIXING = (3.0, -2.0)
BRANCHES = ("cond", "uncond")


def velocities(seed=3):
    """Curves that bend here more and there less, [prompts, steps, branches, dim]."""
    generator = np.random.default_rng(seed)
    bends = generator.normal(size=(PROMPTS, 5, 2, DIM))
    times = np.array([0.0, 0.1, 0.5, 0.6, 0.8, 1.5, 1.6, 2.4])
    basis = np.stack([times**0, times, np.sin(3 * times), np.exp(-times), np.cos(5 * times)])
    return np.einsum("pkbd,kt->ptbd", bends, basis)


V = velocities()
GUIDED = np.einsum("ptbd,b->ptd", V, MIXING)
GRAM = np.einsum("pibd,pjcd->ibjc", V, V) / PROMPTS
PLACED = place_steps(GRAM, MIXING, SIZES)


def rows(gram):
    flat = gram.reshape(2 * STEPS, -1)
    return [flat[i, : i + 1].tolist() for i in range(2 * STEPS)]
