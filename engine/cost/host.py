"""The memory of this machine, and whether the copies of weights that ranks keep in it fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NoReturn

import psutil

from engine.cost.job import Job
from engine.errors import MachineUnfit

Copies = Literal["own", "shared"]
"""Each rank has its own copies, or the ranks of a machine share one."""
_BY_PREFERENCE: tuple[Copies, ...] = ("own", "shared")
_LEFT_FREE_SHARE = 0.1  # for the processes themselves
_LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}  # of control groups of version 2 and of version 1


def host_bytes() -> float:
    """Bytes of memory that this process may use with all others of its container: the machine's, or the least limit of
    a control group that it is in."""
    return float(min([psutil.virtual_memory().total, *_limits()]))


def copied_bytes(job: Job, card_bytes: float, ranks: int, copies: Copies) -> int:
    """Bytes of weights in the memory of a machine.

    Args:
        card_bytes: of one of its cards.
        ranks: on it.
    """
    first_ranks = -(-ranks // job.degrees.replica_size)
    shared = copies == "shared" and not (job.is_sharded and job.model.facts.family.shards_text_encoder)
    return job.memory(card_bytes).host(ranks, first_ranks, shared)


def choose_copies(job: Job, card_bytes: float, ranks: int, memory_bytes: float) -> Copies | None:
    """Own copies where they fit, since each then lies in memory near its card; else a shared one; None if that does not
    fit either. Arguments as of :func:`copied_bytes`, and the bytes of the machine."""
    for copies in _BY_PREFERENCE:
        if copied_bytes(job, card_bytes, ranks, copies) <= (1 - _LEFT_FREE_SHARE) * memory_bytes:
            return copies
    return None


def refuse_copies(job: Job, card_bytes: float, ranks: int, memory_bytes: float, can_share: bool = True) -> NoReturn:
    """Refuse copies that do not fit. Arguments as of :func:`choose_copies`.

    Args:
        can_share: whether the ranks of the machine see the same memory, as far as is known.

    Raises:
        MachineUnfit: one sentence with the numbers, and what to do.
    """
    needed = copied_bytes(job, card_bytes, ranks, "shared" if can_share else "own")
    how = "in one copy" if can_share else "in copies of each, since they cannot share memory (/proc/PID/fd)"
    advice = "start fewer ranks on it, or use a machine with more memory"
    if job.degrees.replica_size > 1 and not job.shard_weights:
        advice = "use parallel.shard_weights=true, which leaves no copies of transformers in it"
    raise MachineUnfit(
        f"{job.model.name} keeps {needed / 1e9:.0f} GB of weights in the host's memory for {ranks} ranks, {how}, and "
        f"this machine has {memory_bytes / 1e9:.0f} GB, of which a tenth stays free: {advice}."
    )


def _limits(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """The limits of the control groups that this process is in, and of those around them. In a container the path that
    the system tells may be one of the host, which is not there: then only the root is looked at."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            kind = "memory" if "memory" in controllers.split(",") else controllers
            if kind not in _LIMITS:
                continue
            below = Path(path.lstrip("/"))
            for folder in (below, *below.parents):
                with suppress(OSError, ValueError):  # "max": there is none
                    yield int((root / kind / folder / _LIMITS[kind]).read_text())
