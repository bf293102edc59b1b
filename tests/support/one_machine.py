"""Ranks of a test that are all on this machine, and the memory that they share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from parallel.ranks import Ranks

NAME = "/memfd:lockstep"
"""Of the memory, as the system shows it."""


@contextmanager
def one_machine(ranks: Ranks) -> Iterator[None]:
    """All ranks are on this machine, as a launcher says."""
    here = {"LOCAL_WORLD_SIZE": str(ranks.degrees.world_size), "LOCAL_RANK": str(ranks.rank)}
    with mock.patch.dict(os.environ, here):
        yield


def open_descriptors() -> int:
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(NAME in link for link in links)
