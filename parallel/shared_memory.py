"""Memory that the ranks of one machine share.

It has no name: one rank makes it (``memfd_create``), and the others open it through that rank's entry in /proc. So
nothing of it is left when the ranks end, however they do, and it may be larger than /dev/shm, which has 64 MB in many
containers.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.node import values_of

_TRIED_BYTES = 64


def share_memory(nbytes: int | None, group: dist.ProcessGroup) -> Tensor:
    """Memory that every rank of a group sees; collective over the group, whose ranks are on one machine.

    Args:
        nbytes: its size, on the first rank of the group; None on the others.

    Returns:
        uint8 [nbytes], zeros, on the CPU. The memory is free again when no rank has a tensor in it any more.

    Raises:
        OSError: it cannot be made, or some rank cannot open it; on all ranks alike.
    """
    descriptor = None
    told: list[Any] = [None]
    try:
        if nbytes is not None:
            descriptor, problem = _make(nbytes)
            told = [(os.getpid(), descriptor, nbytes, problem)]
        dist.broadcast_object_list(told, group_src=0, group=group)
        process, number, size, problem = told[0]
        memory = None
        if not problem:
            memory, problem = _open(f"/proc/{process}/fd/{number}", size)
        problems = [each for each in values_of(problem, group) if each]  # all have opened it
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if problems or memory is None:
        raise OSError(problems[0])
    return memory


def can_share(group: dist.ProcessGroup) -> bool:
    """Whether the ranks of a group see the same memory; the same on all of them. Collective. They do not where each of
    them is in a container of its own, or may not look into the others' entries in /proc."""
    is_first = dist.get_rank(group) == 0
    try:
        memory = share_memory(_TRIED_BYTES if is_first else None, group)
    except OSError:
        return False
    written: list[Any] = [None]
    if is_first:
        memory.copy_(torch.frombuffer(bytearray(os.urandom(_TRIED_BYTES)), dtype=torch.uint8))
        written = [memory.tolist()]
    dist.broadcast_object_list(written, group_src=0, group=group)
    return all(values_of(memory.tolist() == written[0], group))


def _make(nbytes: int) -> tuple[int | None, str]:
    """A descriptor, and what went wrong."""
    if not hasattr(os, "memfd_create"):
        return None, "this system has no memory without a name"
    descriptor = None
    try:
        descriptor = os.memfd_create("lockstep")
        os.ftruncate(descriptor, nbytes)
    except OSError as error:
        return descriptor, str(error)
    return descriptor, ""


def _open(path: str, nbytes: int) -> tuple[Tensor | None, str]:
    """The memory, and what went wrong."""
    try:
        return torch.from_file(path, shared=True, size=nbytes, dtype=torch.uint8), ""
    except RuntimeError as error:  # what torch makes of an error of the system
        return None, " ".join(str(error).split())
