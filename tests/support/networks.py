"""Two network stacks on one machine, joined by a cable: what two machines are to each other, but for the disk."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Stack:
    """One of them; a command with ``prefix`` before it runs there, and sees no other interface."""

    prefix: Sequence[str]
    address: str


@contextmanager
def two_stacks() -> Iterator[tuple[Stack, Stack]]:
    """Skips the test where namespaces cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"lockstep-{os.getpid()}-{number}" for number in range(2)]
    ends = [f"lk{os.getpid()}-{number}" for number in range(2)]  # 15 letters at most
    addresses = ["10.213.77.1", "10.213.77.2"]
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            # both ends are made where they belong, so that the machine's own stack never sees them
            _ip("-n", names[0], "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        for name, end, address in zip(names, ends, addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            for link in ("lo", end):
                _ip("-n", name, "link", "set", link, "up")
        first, second = (
            Stack(["ip", "netns", "exec", *pair[:1]], pair[1]) for pair in zip(names, addresses, strict=True)
        )
        yield first, second
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True, text=True)
