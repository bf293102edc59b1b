"""The rank of each Ray actor, and the environment that torchrun would have given it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from launch.gang.bundles import machines_of
from launch.process.signals import PARENT_PID

_CARRIED = (
    *("NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "HF_", "OMP_", "GOMP_", "LOCKSTEP_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_OVERRIDE"),
)
# RANK, MASTER_* and these are the node's or the rank's own
_NEVER_CARRIED = (PARENT_PID, "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "CUDA_MPS_PIPE_DIRECTORY")


@dataclass(frozen=True)
class ActorInfo:
    """What an actor reports before it has a rank."""

    node_id: str
    address: str
    """IP address of its node."""
    gpus: Sequence[str]
    """That Ray gave it, as CUDA_VISIBLE_DEVICES names them."""
    cores: int


@dataclass(frozen=True)
class RankAssignment:
    """The rank of one actor; plain data."""

    rank: int
    ranks: int
    """World size."""
    local_rank: int
    local_ranks: int
    """Ranks on this node."""
    ranks_per_node: int
    """Where nodes hold different numbers, that of :func:`launch.gang.bundles.machines_of`."""
    cores: int
    gpus: Sequence[str]
    """Of all ranks of the gang on this node; the rank's own is number ``local_rank``."""
    folder: str
    """The driver's working directory, to which relative paths refer."""

    def set_environment(self, environment: MutableMapping[str, str], carried: Mapping[str, str], address: str) -> None:
        """Set the variables that ranks read. Has to be called before torch is imported.

        Args:
            carried: variables of the driver; one that the node has set itself is kept.
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
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store exists; rank 0 must not open it again
        }
        if self.gpus:
            # Ray shows each actor its own GPU alone; with all of the gang's, as under torchrun, NCCL finds its peers
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        environment.update(own)


def assign(actors: Sequence[ActorInfo], folder: str) -> tuple[list[int], list[RankAssignment]]:
    """Assign a rank to each actor: node by node, and within a node in the order of its GPUs.

    Args:
        actors: node by node.
        folder: the driver's working directory.

    Returns:
        Indices into ``actors`` in rank order, and the assignments in rank order.
    """
    nodes = list(dict.fromkeys(actor.node_id for actor in actors))
    order = sorted(
        range(len(actors)),
        key=lambda i: (nodes.index(actors[i].node_id), [_gpu_key(gpu) for gpu in actors[i].gpus], i),
    )
    _, ranks_per_node = machines_of([actor.node_id for actor in actors])
    assignments = []
    for rank, index in enumerate(order):
        actor = actors[index]
        here = [i for i in order if actors[i].node_id == actor.node_id]
        gpus = [gpu for i in here for gpu in actors[i].gpus]
        assignments.append(
            RankAssignment(rank, len(order), here.index(index), len(here), ranks_per_node, actor.cores, gpus, folder)
        )
    return order, assignments


def carried_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The driver's variables that ranks on other nodes get as well."""
    return {
        name: value for name, value in environment.items() if name.startswith(_CARRIED) and name not in _NEVER_CARRIED
    }


def _gpu_key(gpu: str) -> tuple[int, str]:
    return (int(gpu), "") if gpu.isdigit() else (0, gpu)
