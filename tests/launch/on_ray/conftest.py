"""One Ray cluster for all tests of this folder, which run one after the other and leave no process on it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.ray_nodes import NODE, PLAIN, two_nodes


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """A cluster whose ranks are on another node than the driver."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLAIN.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
        try:
            cluster.add_node(**NODE | {"num_cpus": 2})
            yield cluster
        finally:
            cluster.shutdown()
