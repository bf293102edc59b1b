"""Lines of a check, called as a worker calls them."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, TCPStore

from launch.check.finding import Finding
from launch.check.job import CheckOptions, prepare_check
from launch.check.site import Site
from launch.check.table import Line, lines_for
from launch.check.worker import _found
from launch.jobs.config import JobConfig
from parallel.place import Place
from parallel.ranks import Ranks, leave
from tests.support.check_faults import FAULTS

CHECK_INJECTED = Path(__file__).with_name("check_injected")


def small_config(ranks: int = 1) -> JobConfig:
    """The configuration that a check gives to its workers."""
    return prepare_check(CheckOptions(), Place(ranks)).config


def line_called(name: str, ranks: int = 1) -> Line:
    """The line of that name."""
    return next(line for line in lines_for(ranks, small_config(ranks)) if line.name == name)


def found_here(name: str, folder: Path) -> Finding:
    """What a line of one rank finds in this process."""
    return _found(line_called(name), Site(small_config(), "cpu", 0, 1, 1, folder))[0]


def found_on_ranks(ranks: Ranks, name: str, fault: str, folder: str, key: str) -> dict[str, Any]:
    """What a line finds on this rank of a test's gang, with a fault of :data:`FAULTS` or none ("")."""
    import pytest

    leave()  # the line joins by itself
    store = TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=60))
    count = int(os.environ["WORLD_SIZE"])
    site = Site(small_config(count), "cpu", ranks.rank, count, count, Path(folder), PrefixStore(key, store))
    with pytest.MonkeyPatch.context() as patch:
        if fault:
            FAULTS[fault].install(patch)
        return _found(line_called(name, count), site)[0].model_dump(mode="json")
