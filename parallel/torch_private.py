"""torch's private parts that Lockstep uses, in one place: a new version of torch is checked here.

Nothing else in the project imports an underscored name of torch, and ruff's SLF001 refuses the use of one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store, _set_pg_timeout, _world
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather
    from torch.distributed.tensor import DTensor

__all__ = [
    "AllGather",
    "TorchDispatchMode",
    "collectives_begun",
    "compilations",
    "compiled",
    "cpp_compiler",
    "cpu_flash_attention",
    "default_store",
    "fake_store",
    "job_store",
    "local_slices",
    "opaque_operation",
    "set_group_timeouts",
    "tree_leaves",
]


def __getattr__(name: str) -> Any:
    """Import ``AllGather`` when it is asked for: FSDP takes a second, and joining the ranks does not need it."""
    if name != "AllGather":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather

    return AllGather


def set_group_timeouts(timeout_seconds: float) -> None:
    """Give every process group of this process, xDiT's among them, the same limit on one collective."""
    for group in list(_world.pg_map):
        _set_pg_timeout(timedelta(seconds=timeout_seconds), group)


def default_store() -> dist.Store:
    """The key-value store through which the ranks of the job have met."""
    return _get_default_store()


def job_store(prefix: str) -> dist.Store:
    """The same, over a connection of its own: another thread may wait for a key meanwhile.

    Args:
        prefix: of the keys.

    Raises:
        ValueError: the ranks have not met, or have left.
    """
    store: Any = _get_default_store()
    return dist.PrefixStore(prefix, store.clone())


def collectives_begun() -> int:
    """Collective operations that this rank has begun, in all its groups. Ranks of a replica begin the same ones in the
    same order, so one with fewer than the others is behind them."""
    groups: list[Any] = list(_world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)


def fake_store() -> dist.Store:
    """A store for torch's `fake` backend, which is registered with it."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    return FakeStore()


def local_slices(tensor: DTensor) -> tuple[slice, ...]:
    """Where in the whole tensor this rank's part of it lies: a slice for each dim.

    The tensor is sharded along one dim, so each rank has one part, which is empty where there are more ranks than rows.
    """
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))


def cpu_flash_attention() -> Callable[..., Any]:
    """Attention on the CPU that also returns the log-sum-exp of each query, which the public functions keep back.

    Called with query, key and value [batch, heads, tokens, head_dim]; returns the output in the shape of the query and
    the log-sum-exp [batch, heads, tokens], float32 or the dtype of the query if that is finer.
    """
    kernel: Callable[..., Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel


def opaque_operation(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` as one operation of compiled graphs, which torch never looks into and keeps until the process ends.

    Args:
        name: a number is put behind it if the process has such an operation already.
        function: with annotated arguments; it changes none of them, and returns a new contiguous tensor that has the
            shape, dtype and device of the first.
    """
    number = 0
    while hasattr(torch.ops.lockstep, f"{name}_{number}"):
        number += 1
    operation = torch.library.custom_op(f"lockstep::{name}_{number}", function, mutates_args=())
    operation.register_fake(lambda first, *others: first.new_empty(first.shape))
    return operation


_RECOMPILE_LIMIT = 64  # graphs of one kind of block in one process, which may load several models; torch's own is 8


def compiled(forward: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """``forward`` as one graph for all sizes, compiled at its first call; torch's stubs do not know the last argument.

    dynamic: another number of tokens, of the video or of its text, needs no graph of its own.
    """
    result: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]
        forward, backend=backend, fullgraph=True, dynamic=True, recompile_limit=_RECOMPILE_LIMIT
    )
    return result


def compilations() -> int:
    """Graphs that this process has compiled since it began."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile takes on a CPU; None if it finds none."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return str(get_cpp_compiler())
    except InvalidCxxCompiler:
        return None
