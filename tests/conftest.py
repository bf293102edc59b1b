"""What all tests share: the small model, one thread a process, and processes to be ranks."""

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: ranks share few cores

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

from parallel.degrees import Degrees
from tests.support.gang import Gang

# what screens draw must not depend on where the tests run: a service that builds sets CI, and may have no terminal
os.environ["TERM"] = "xterm"
for name in ("CI", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR"):
    os.environ.pop(name, None)

# what takes longest goes first, by measured time: a long file that began last would leave the other process idle
ORDER = ("launch/on_ray", "launch", "distributed")
# whole requests on three or more ranks take two cores long: `make test` runs them in the first of these, and the others
# make no whole request
EVERY_LAYOUT = ("test_layouts", "test_ranks", "test_attention", "test_joint_attention", "test_sharding", "test_audit")
TOGETHER = "launch/on_ray"  # all files on one process, for they share a cluster


def _place(path: str) -> int:
    """Where in the order a test file or a test goes."""
    return next((index for index, name in enumerate(ORDER) if f"tests/{name}/" in path), len(ORDER))


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests in that order, which ``--no-loadscope-reorder`` has xdist keep, and mark large layouts as slow."""
    items.sort(key=lambda item: _place(item.path.as_posix()))
    for item in items:
        if item.path.stem not in EVERY_LAYOUT and _ranks(item) > 2:
            item.add_marker(pytest.mark.slow)


def _ranks(item: pytest.Item) -> int:
    """Ranks of the largest layout that a test is given as a parameter."""
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return max((value.world_size for value in given if isinstance(value, Degrees)), default=1)


class ByFile(LoadFileScheduling):
    """``--dist loadfile``, but for a folder whose files stay together."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if f"tests/{TOGETHER}/" in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return ByFile(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def gang() -> Iterator[Gang]:
    """Eight processes to be ranks."""
    gang = Gang(8)
    yield gang
    gang.stop()
