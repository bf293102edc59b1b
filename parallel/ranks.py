"""This process's rank and groups, and how it joins and leaves them."""

import os
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from parallel.degrees import Degrees
from parallel.interface import choose_interface
from parallel.meeting import Meeting
from parallel.torch_private import set_group_timeouts

_MARGIN, _LEAST_MARGIN_SECONDS = 0.25, 5.0


@dataclass(frozen=True)
class Ranks:
    """One rank's position in the layout, and its process groups; a group is None where it would have one rank.

    Ranks are numbered data-major, then cfg, then ring, then ulysses, as xDiT numbers them. So the Ulysses ranks of a
    group are neighbours, on one node if possible, and their token shards are contiguous.
    """

    degrees: Degrees = field(default_factory=Degrees)
    rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    replica_group: dist.ProcessGroup | None = None
    sequence_group: dist.ProcessGroup | None = None
    ring_group: dist.ProcessGroup | None = None
    cfg_group: dist.ProcessGroup | None = None

    @property
    def sequence_rank(self) -> int:
        """Rank among those that share the tokens of a sequence."""
        return self.rank % self.degrees.sequence

    @property
    def ring_rank(self) -> int:
        """Rank along the ring axis."""
        return self.sequence_rank // self.degrees.ulysses

    @property
    def cfg_rank(self) -> int:
        """Rank along the cfg axis: 0 computes the cond branch, 1 the uncond branch."""
        return self.rank // self.degrees.sequence % self.degrees.cfg

    @property
    def replica_size(self) -> int:
        """Ranks of one model replica."""
        return self.degrees.replica_size

    @property
    def replica(self) -> int:
        """Number of the model replica, from 0."""
        return self.rank // self.replica_size

    @property
    def replica_rank(self) -> int:
        """Rank inside the model replica."""
        return self.rank % self.replica_size

    @property
    def first_in_replica(self) -> int:
        """World rank of the replica's first rank, which encodes prompts and writes files."""
        return self.rank - self.replica_rank


def pick_device(kind: str) -> torch.device:
    """The device of this process: ``cuda`` with the local rank's index, or ``cpu``.

    Args:
        kind: "auto" (CUDA where there is one), "cpu" or "cuda".
    """
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def use_device(device: torch.device) -> None:
    """Have this thread use the rank's device. To be called in every thread that calls CUDA: torch keeps the current
    device for each thread, and a new one would open device 0, which takes memory there from another rank."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def join(degrees: Degrees, device: torch.device, timeout_seconds: float) -> Ranks:
    """Join the process group named by the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and build xDiT's
    groups. With one rank nothing is joined, and xDiT is not imported.

    Args:
        timeout_seconds: limit on the wait for all ranks, and on one collective until :func:`set_timeouts` sets another.

    Raises:
        ValueError: the environment's world size is not the degrees' product.
    """
    use_device(device)
    if degrees.world_size == 1:
        return Ranks(degrees, device=device)
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world_size != degrees.world_size:
        raise ValueError(f"The parallel degrees {degrees} need {degrees.world_size} ranks, but {world_size} started.")

    import parallel.xdit  # noqa: F401  (before the limit on time runs: it takes seconds)

    choose_interface()
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout, meeting = timedelta(seconds=timeout_seconds), Meeting(rank, world_size, timeout_seconds)
    dist.init_process_group(backend, store=meeting.store, timeout=timeout, rank=rank, world_size=world_size)
    ranks = make_groups(degrees, rank, device, backend)
    set_timeouts(timeout_seconds)  # xDiT's groups start with torch's default of many minutes
    return ranks


def make_groups(degrees: Degrees, rank: int, device: torch.device, backend: str) -> Ranks:
    """Build xDiT's groups in torch's default process group, which has to have been joined; collective over all ranks.

    Args:
        backend: of the default process group.
    """
    from parallel import xdit

    xdit.run_on(device)
    with xdit.without_idle_groups(degrees.replica_size):
        xdit.init_distributed_environment(rank=rank, world_size=degrees.world_size, backend=backend)
        xdit.initialize_model_parallel(
            data_parallel_degree=degrees.data,
            classifier_free_guidance_degree=degrees.cfg,
            sequence_parallel_degree=degrees.sequence,
            ulysses_degree=degrees.ulysses,
            ring_degree=degrees.ring,
            backend=backend,
        )
    return Ranks(
        degrees,
        rank,
        device,
        replica_group=xdit.get_model_replica_group().device_group if degrees.replica_size > 1 else None,
        sequence_group=xdit.get_sp_group().device_group if degrees.sequence > 1 else None,
        ring_group=xdit.get_ring_group() if degrees.ring > 1 else None,
        cfg_group=xdit.get_cfg_group().device_group if degrees.cfg > 1 else None,
    )


def set_timeouts(timeout_seconds: float) -> None:
    """Give every process group of this process the same limit on one collective.

    torch gets a quarter more, and five seconds at least: until then whoever watches the ranks can find out which one
    the others wait for. A rank whose wait times out only knows that it waits.
    """
    if dist.is_initialized():
        set_group_timeouts(timeout_seconds + max(_MARGIN * timeout_seconds, _LEAST_MARGIN_SECONDS))


def leave() -> None:
    """Leave all process groups; does nothing if none was joined."""
    if not dist.is_initialized():
        return
    from parallel import xdit

    xdit.leave_groups()
