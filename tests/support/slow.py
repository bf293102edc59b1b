"""Which cases of a table `make test` runs, and which only `make test-all`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def all_slow_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases as parameters of a test, those that are not among ``quick`` marked as slow.

    Raises:
        AssertionError: a quick case is no case.
    """
    cases = list(cases)
    assert all(case in cases for case in quick), (quick, cases)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in quick else pytest.mark.slow for case in cases]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]
