"""One Ray cluster for all tests of this folder, which run one after the other and leave no process on it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.ray_nodes import two_nodes


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster
