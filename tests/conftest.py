"""What all tests share: the small model, one thread a process, and processes to be ranks."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: ranks share few cores

import pytest
import torch

from engine.config import Config
from engine.config_file import load_config
from tests.distributed.gang import Gang

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny-wan.yaml"
PROMPT = "a red circle moving right on a navy background"


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


def tiny_config(*overrides: str) -> Config:
    """The shipped small model's configuration, with few steps, in float32 on the CPU."""
    return load_config(CONFIG, ["sampling.steps=12", "model.dtype=float32", "runtime.device=cpu", *overrides])
