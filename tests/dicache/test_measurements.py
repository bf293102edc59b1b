"""What a calibration measures for MagCache and TeaCache, written out once more."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dicache.calibration.measurements import Measurements, conclude, fit_polynomial, mean_ratios
from dicache.steps import Lane, Step

LANES = (Lane(0, "cond"), Lane(0, "uncond"))
STEPS = [Step(index, 1 - index / 5, 1 - (index + 1) / 5) for index in range(5)]
SIGNALS = ("timestep_embedding", "modulated_input")


def activations(lane: Lane, step: Step) -> dict[str, Tensor]:
    """Of 7 tokens; the embedding is one that all have in common."""
    generator = torch.Generator().manual_seed(100 * step.index + LANES.index(lane))
    sizes = {"x": (7, 6), "y": (7, 6), "velocity": (7, 4), "modulated_input": (7, 6), "timestep_embedding": (1, 3)}
    return {name: torch.randn(1, *size, generator=generator) for name, size in sizes.items()}


def measure(tokens: slice, owns_common: bool, lanes: tuple[Lane, ...]) -> Measurements:
    """What a rank sees that holds these tokens."""
    measurements = Measurements(SIGNALS)
    for step in STEPS:
        for lane in lanes:
            parts = {name: tensor[:, tokens] for name, tensor in activations(lane, step).items()}
            whole = activations(lane, step)["timestep_embedding"]
            parts["timestep_embedding"] = whole if owns_common else whole[:, :0]
            x, y, velocity = (parts.pop(name) for name in ("x", "y", "velocity"))
            measurements.see(step, lane, x, y, velocity, parts)
            for tensor in (x, y, velocity, *parts.values()):
                tensor.fill_(float("nan"))  # buffers are used again
    return measurements


@pytest.mark.parametrize("layout", ["one rank", "three ranks, one without tokens", "a branch each"])
def test_ratios_and_changes_are_those_of_all_tokens(layout: str) -> None:
    ranks = {
        "one rank": [(slice(0, 7), True, LANES)],
        "three ranks, one without tokens": [
            (slice(0, 3), True, LANES),
            (slice(3, 7), False, LANES),
            (slice(7, 7), False, LANES),
        ],
        "a branch each": [(slice(0, 7), True, LANES[:1]), (slice(0, 7), True, LANES[1:])],
    }[layout]
    measured = conclude([measure(*rank).sums for rank in ranks], Measurements(SIGNALS).signals)
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in SIGNALS}
    for lane in LANES:
        expected = [1.0]
        for before, now in itertools.pairwise(STEPS):
            old, new = activations(lane, before), activations(lane, now)
            shrinks = (new["y"] - new["x"]).norm(dim=-1) / (old["y"] - old["x"]).norm(dim=-1)
            expected.append(shrinks.mean().item())
            for name in SIGNALS:
                change = [((new[n] - old[n]).abs().mean() / old[n].abs().mean()).item() for n in (name, "velocity")]
                points[name].append((change[0], change[1]))
        assert measured.ratios[lane.branch] == pytest.approx(expected, rel=1e-5)
    for name in SIGNALS:
        np.testing.assert_allclose(measured.changes[name], points[name], rtol=1e-5)


def test_ratios_are_averaged_over_the_requests() -> None:
    assert mean_ratios([{"cond": [1.0, 0.8]}, {"cond": [1.0, 0.6]}]) == {"cond": (1.0, pytest.approx(0.7))}


def test_a_polynomial_is_the_least_squares_one_of_degree_4() -> None:
    changes = np.linspace(0.01, 0.3, 40)
    outputs = np.exp(3 * changes) + 0.01 * np.sin(90 * changes)
    fitted = fit_polynomial(list(zip(changes, outputs, strict=True)))
    np.testing.assert_allclose(fitted, np.polyfit(changes, outputs, 4), rtol=1e-6)
    assert len(fit_polynomial([(0.1, 1.0), (0.2, 3.0), (0.2, 3.0)])) == 2, "two different changes make a line"
    assert fit_polynomial([(0.1, 2.0)]) == pytest.approx((2.0,))
