"""Published numbers under other conditions than those that they were measured under."""

import itertools

import pytest

from dicache.config import CacheConfig
from dicache.methods import build_method
from dicache.published.conditions import MEASURED_AT, carry_over
from dicache.published.magnitudes import TABLES
from dicache.published.polynomials import POLYNOMIALS, RETENTION_POLYNOMIALS
from dicache.steps import Lane

LANES = (Lane(0, "cond"), Lane(0, "uncond"))


def levels(shift: float, num_steps: int) -> list[float]:
    """Noise levels of the steps, the last of which is at the end of the way, as the tables' interpolation has it."""
    shares = [1 - index / (num_steps - 1) for index in range(num_steps)]
    return [shift * share / (1 + (shift - 1) * share) for share in shares]


def table_of(shift: float, num_steps: int) -> list[float]:
    """Ratios of residuals whose size is 1 + σ²."""
    sizes = [1 + level**2 for level in levels(shift, num_steps)]
    return [1.0, *(size / before for before, size in itertools.pairwise(sizes))]


@pytest.mark.parametrize(("shift", "num_steps"), [(3.0, 50), (8.0, 50), (8.0, 30), (1.0, 2)])
def test_sizes_follow_the_noise_level(shift: float, num_steps: int) -> None:
    carried = carry_over(table_of(5.0, 400), num_steps, shift, 5.0)
    assert carried == pytest.approx(table_of(shift, num_steps), rel=1e-3)
    assert len(carried) == num_steps


def test_the_same_sampling_has_the_same_table() -> None:
    table = table_of(5.0, 50)
    assert carry_over(table, 50, 5.0, 5.0) == pytest.approx(table)
    assert carry_over([1.0], 3, 8.0, 5.0) == (1.0, 1.0, 1.0) and carry_over(table, 1, 8.0, 5.0) == (1.0,)


def test_every_published_number_says_how_it_was_measured() -> None:
    assert MEASURED_AT.keys() == TABLES.keys() | POLYNOMIALS.keys() | RETENTION_POLYNOMIALS.keys()
    for name, table in TABLES.items():
        assert MEASURED_AT[name].steps == 1 + len(table.measured.split()) // table.num_branches


def test_the_gate_carries_over_for_another_shift_alone() -> None:
    name = "Wan2.1-T2V-14B"

    def ratios(num_steps: int, shift: float | None) -> object:
        method = build_method(CacheConfig(method="magcache"), LANES, num_steps, range(num_steps), [name], shift)
        return method.gate.ratios  # type: ignore[attr-defined]

    published = TABLES[name]
    assert ratios(50, 5.0) == ratios(50, None) == published.ratios(50)
    assert ratios(30, 5.0) == published.ratios(30), "its authors' rule"
    assert ratios(50, 3.0) == published.ratios(50, (3.0, 5.0)) != published.ratios(50)
    assert ratios(50, 3.0)["uncond"] != ratios(50, 3.0)["cond"]  # type: ignore[index]
