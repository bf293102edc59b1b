"""The only file that imports xDiT, and the only one that changes anything inside it.

Everything else in ``parallel`` takes xDiT's names from here. What is changed, and when:

* at the import, where torch finds no CUDA device: stock ``import xfuser`` fails there;
* :func:`run_on`, where the ranks run on the CPU, whatever devices the machine has: xDiT would take the GPU number
  LOCAL_RANK for each rank and ask for NCCL;
* :func:`without_idle_groups`, while groups are made: xDiT makes two for each axis and rank, most of them of one rank.
"""

import importlib.util
import logging
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from packaging.version import Version


def _refuse_block_mask(*_: object, **__: object) -> None:
    raise RuntimeError("Sparge attention needs triton, which is not installed.")


def _stand_in_for_triton_kernels() -> None:
    """Replace the module of a triton kernel, which xDiT imports at module level and only sparse attention calls."""
    name = "xfuser.core.sparge_attention.block_mask"
    module = types.ModuleType(name)
    module.get_block_map_meansim = _refuse_block_mask  # type: ignore[attr-defined]
    sys.modules[name] = module


def _patch_environment() -> None:
    """Patch xDiT's checks for CUDA before the modules that run them at import are loaded."""
    spec = importlib.util.find_spec("xfuser")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("xfuser is not installed: install the project's dependencies.")
    shell = types.ModuleType("xfuser")
    shell.__path__ = list(spec.submodule_search_locations)
    sys.modules["xfuser"] = shell
    try:
        import xfuser.envs as envs
    finally:
        del sys.modules["xfuser"]
    envs._is_cuda = lambda: False  # a CUDA build of torch on a machine without a GPU says True
    envs.variables["CUDA_VERSION"] = lambda: Version("0.0")
    envs.PACKAGES_CHECKER.packages_info["has_long_ctx_attn"] = True  # yunchang's groups work over gloo


if importlib.util.find_spec("triton") is None:
    _stand_in_for_triton_kernels()
if not torch.cuda.is_available():
    _patch_environment()

import xfuser.envs as envs  # noqa: E402
from xfuser.core.distributed import (  # noqa: E402
    get_cfg_group,
    get_model_replica_group,
    get_sp_group,
    init_distributed_environment,
    initialize_model_parallel,
    parallel_state,
)
from xfuser.core.distributed.attention_backend import (  # noqa: E402
    ATTENTION_FUNCTION_REGISTRY,
    AttentionBackendType,
)
from xfuser.core.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel  # noqa: E402
from xfuser.model_executor.layers import usp  # noqa: E402
from xfuser.model_executor.layers.usp import _ft_c_input_all_to_all as exchange_heads_for_tokens  # noqa: E402
from xfuser.model_executor.layers.usp import _ft_c_output_all_to_all as exchange_tokens_for_heads  # noqa: E402
from xfuser.model_executor.models.transformers.transformer_wan import xFuserWanAttnProcessor  # noqa: E402
from yunchang.globals import PROCESS_GROUP  # noqa: E402

for _handler in logging.getLogger("xfuser").handlers:  # shared by all of xDiT's loggers, at DEBUG on stdout
    _handler.setLevel(logging.ERROR)

__all__ = [
    "ATTENTION_FUNCTION_REGISTRY",
    "AttentionBackendType",
    "exchange_heads_for_tokens",
    "exchange_tokens_for_heads",
    "get_cfg_group",
    "get_model_replica_group",
    "get_ring_group",
    "get_sp_group",
    "init_distributed_environment",
    "initialize_model_parallel",
    "leave_groups",
    "run_on",
    "without_idle_groups",
    "xFuserWanAttnProcessor",
]


def run_on(device: torch.device) -> None:
    """Have xDiT run on the device that was chosen. To be called before ranks are joined; on a CUDA device nothing
    changes, for there xDiT takes the one that LOCAL_RANK names, as :func:`parallel.ranks.pick_device` does."""
    usp.PROCESS_GROUP = PROCESS_GROUP  # in which USP looks its groups up; xDiT sets it where it finds CUDA
    if device.type == "cpu":
        envs.get_device_name = lambda: "cpu"  # else set_device(LOCAL_RANK) is called
        envs.get_device = lambda local_rank: device
        envs.get_torch_distributed_backend = lambda: "gloo"


@contextmanager
def without_idle_groups(replica_size: int) -> Iterator[None]:
    """While xDiT makes its groups inside, only those are made that are used, and each once.

    Stock xDiT makes two groups, one of them over gloo, along each of seven axes for every rank: about 100 for 8 ranks
    and 700 for 64, each with connections and, over NCCL, buffers of its own. A group of one rank is never used, nor one
    of several replicas; for all ranks there is the job's own. The groups in which attention exchanges heads and chunks
    are not shared with others, so that weights that are gathered meanwhile do not queue behind them.
    """
    new_group = dist.new_group
    made: dict[tuple[bool, tuple[int, ...]], Any] = {}

    def new_group_if_needed(ranks: Sequence[int], backend: str | None = None, **kwargs: Any) -> Any:
        if len(ranks) == 1:
            return dist.GroupMember.NON_GROUP_MEMBER
        exchanges = backend is None  # by yunchang, for attention; xDiT always names a backend
        if len(ranks) == dist.get_world_size() and not exchanges:
            return dist.group.WORLD
        if len({rank // replica_size for rank in ranks}) > 1:
            return dist.GroupMember.NON_GROUP_MEMBER
        key = (exchanges, tuple(ranks))
        if key not in made:
            made[key] = new_group(ranks, **kwargs)  # of the job's backend
        return made[key]

    dist.new_group = new_group_if_needed  # type: ignore[assignment]
    try:
        yield
    finally:
        dist.new_group = new_group
    sequence = parallel_state._SP
    for axis in ("ulysses", "ring"):
        if getattr(sequence, f"{axis}_world_size", 1) < 1:  # what torch says of a group that was not made
            setattr(sequence, f"{axis}_world_size", 1)
            setattr(sequence, f"{axis}_rank", 0)


def leave_groups() -> None:
    """Leave all process groups, the job's own too."""
    for name in ("_WORLD", "_MODEL_REPLICA", "_DP", "_CFG", "_PP", "_SP", "_TP", "_FS", "_VAE"):
        if (coordinator := getattr(parallel_state, name)) is not None:
            coordinator.device_group = coordinator.cpu_group = None  # shared: torch destroys each of them below, once
    destroy_model_parallel()
    destroy_distributed_environment()


def get_ring_group() -> Any:
    """The ranks along the ring axis, in the order of the ring."""
    return PROCESS_GROUP.RING_PG
