"""When a disk fails, and how: as a seed says."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.disks.disk import KINDS

RANKS = 2
STEPS = 8  # of each video
# moments of tests/support/injected that every video has; the first rank alone writes files
_MOMENTS = ("encode", "warmup", "compute", "checkpoint", "decode", "commit", *map(str, range(STEPS)))
_WRITING = ("frames", "renamed")
_LATEST_SECONDS = 2.5  # until the disk is well again


@dataclass(frozen=True)
class DiskFault:
    """What happens to the disk while one video is made."""

    rank: int
    moment: str
    kind: str
    seconds: float
    """After which it is well again."""


def faults(count: int, seed: int) -> Iterator[DiskFault]:
    """Faults of all kinds in turn, at random moments; equal for equal seeds."""
    draw = random.Random(seed)
    pairs = [(rank, moment) for moment in _MOMENTS for rank in range(RANKS)] + [(0, moment) for moment in _WRITING]
    for number in range(count):
        rank, moment = draw.choice(pairs)
        yield DiskFault(rank, moment, KINDS[number % len(KINDS)], round(draw.uniform(0.2, _LATEST_SECONDS), 2))
