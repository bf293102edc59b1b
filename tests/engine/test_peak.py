"""The measured peak of a device."""

import time

import pytest
import torch

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
