"""What a rank in a Ray actor has to know, which torchrun would say in its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from launch.gang.places import machines_of
from launch.process.signals import PARENT_PID

# never CUDA_VISIBLE_DEVICES, RANK or MASTER_*: they are the node's or the rank's own
_CARRIED = ("NCCL_", "GLOO_", "TORCH_", "HF_", "OMP_", "GOMP_", "CUBLAS_", "LOCKSTEP_")


@dataclass(frozen=True)
class Resident:
    """What an actor says of itself before it has a rank."""

    node_id: str
    address: str
    gpus: Sequence[str]  # that Ray gave it, as CUDA_VISIBLE_DEVICES names them
    cores: int


@dataclass(frozen=True)
class Seat:
    """One rank's place in the gang; plain data."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    part: int  # ranks on each node, or of as many where nodes hold different numbers
    cores: int
    gpus: Sequence[str]  # of all ranks of the gang on this node; the rank's own is number local_rank
    folder: str  # that relative paths are meant from

    def enter(self, environment: MutableMapping[str, str], carried: Mapping[str, str], address: str) -> None:
        """Write into the environment what ranks read there. Before torch is imported.

        Args:
            carried: the driver's variables, which yield to the node's own.
            address: of the gang's store, whose port is known later.
        """
        threads = carried.get("OMP_NUM_THREADS", str(max(1, self.cores // self.local_ranks)))
        for name, value in carried.items():
            environment.setdefault(name, value)
        own = {
            "OMP_NUM_THREADS": threads,  # Ray sets one thread for every actor
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_ranks),
            "MASTER_ADDR": address,
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there; rank 0 must not open it again
        }
        if self.gpus:
            # Ray shows each actor its own GPU alone; with all of the gang's, as under torchrun, NCCL finds its peers
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        environment.update(own)


def assign(residents: Sequence[Resident], folder: str) -> tuple[list[int], list[Seat]]:
    """The actors in the order of their ranks, and the seat of each rank.

    Args:
        residents: node by node.

    Returns:
        Indices into ``residents``, which within a node are sorted by GPU; and their seats.
    """
    nodes = list(dict.fromkeys(resident.node_id for resident in residents))
    order = sorted(
        range(len(residents)),
        key=lambda i: (nodes.index(residents[i].node_id), [_gpu_key(gpu) for gpu in residents[i].gpus], i),
    )
    _, part = machines_of([resident.node_id for resident in residents])
    seats = []
    for rank, index in enumerate(order):
        resident = residents[index]
        here = [i for i in order if residents[i].node_id == resident.node_id]
        gpus = [gpu for i in here for gpu in residents[i].gpus]
        seats.append(Seat(rank, len(order), here.index(index), len(here), part, resident.cores, gpus, folder))
    return order, seats


def carried_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of the driver that ranks on other machines should know as well."""
    return {name: value for name, value in environment.items() if name.startswith(_CARRIED) and name != PARENT_PID}


def _gpu_key(gpu: str) -> tuple[int, str]:
    return (int(gpu), "") if gpu.isdigit() else (0, gpu)
