"""What all tests share: the small model, one thread a process, and processes to be ranks."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: ranks share few cores

import pytest
import torch

from tests.support.gang import Gang


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first, then ranks: a file of few long tests that is the last to begin leaves the other process idle.

    xdist would begin with the files of many tests; ``--no-loadscope-reorder`` has it keep this order.
    """
    order = ("launch", "distributed")
    items.sort(key=lambda item: order.index(name) if (name := item.path.parent.name) in order else len(order))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def gang() -> Iterator[Gang]:
    """Eight processes to be ranks."""
    gang = Gang(8)
    yield gang
    gang.stop()
