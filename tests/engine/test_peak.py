"""The measured peak of a device."""

import time
from unittest import mock

import pytest
import torch

from engine.execution import peak as measuring
from engine.execution.peak import measure_peak_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_peak_is_that_of_a_product_timed_by_hand(dtype: torch.dtype) -> None:
    """Within a wide range, since the machine's load may change between the two."""
    started = time.perf_counter()
    peak = measure_peak_flops(torch.device("cpu"), dtype)
    assert time.perf_counter() - started < 5, "alone on the machine it is under two seconds"
    a = torch.randn(512, 512).to(dtype)
    a @ a
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    assert 0.2 < peak / (2 * 512**3 / min(seconds)) < 5


def test_a_multiplication_and_an_addition_are_two_and_the_median_round_counts() -> None:
    """Of a product of 256 rows here: the one of 128 was too short to be timed well."""
    seconds = iter([0.001, 0.5, 0.25, 0.25, 0.25, 0.25, 9.0, 0.25])
    with mock.patch.object(measuring, "_timed", lambda work: next(seconds)):
        assert measure_peak_flops(torch.device("cpu"), torch.float32) == 2 * 256**3 / 0.25
