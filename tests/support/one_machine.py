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


def holders(folder: Path) -> list[str]:
    """Processes that work in a folder and have the memory, as an open descriptor or mapped."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
            has_it = NAME in (process / "maps").read_text() or any(NAME in link for link in links)
            if has_it and (process / "cwd").resolve() == folder.resolve():
                found.append(process.name)
        except OSError:
            pass  # of somebody else, or gone
    return found


def names_in_shm() -> set[str]:
    """What the ranks' libraries would call their segments of shared memory."""
    return {name for name in os.listdir("/dev/shm") if "lockstep" in name or "torch" in name}
