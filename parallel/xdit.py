"""The only file that imports xDiT, and the only one that changes anything inside it.

Everything else in ``parallel`` takes xDiT's names from here. On a machine with CUDA nothing is changed. Without CUDA,
stock ``import xfuser`` fails in five places. Each is patched below, before or right after the first import, so that
the same code runs over gloo.
"""

import importlib.util
import logging
import sys
import types

import torch
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
    envs.get_torch_distributed_backend = lambda: "gloo"
    envs.variables["CUDA_VERSION"] = lambda: Version("0.0")
    envs.PACKAGES_CHECKER.packages_info["has_long_ctx_attn"] = True  # yunchang's groups work over gloo


def _patch_groups() -> None:
    """Set the module variable in which USP looks its groups up; xDiT sets it only with CUDA."""
    from xfuser.model_executor.layers import usp
    from yunchang.globals import PROCESS_GROUP

    usp.PROCESS_GROUP = PROCESS_GROUP


if not torch.cuda.is_available():
    if importlib.util.find_spec("triton") is None:
        _stand_in_for_triton_kernels()
    _patch_environment()

from xfuser import xFuserArgs  # noqa: E402
from xfuser.core.distributed import (  # noqa: E402
    get_cfg_group,
    get_model_replica_group,
    get_sp_group,
    init_distributed_environment,
    initialize_model_parallel,
    initialize_runtime_state,
)
from xfuser.core.distributed.attention_backend import (  # noqa: E402
    ATTENTION_FUNCTION_REGISTRY,
    AttentionBackendType,
    register_attention_function,
)
from xfuser.core.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel  # noqa: E402
from xfuser.envs import PACKAGES_CHECKER  # noqa: E402
from xfuser.model_executor.layers.usp import USP  # noqa: E402
from xfuser.model_executor.models.transformers.transformer_wan import xFuserWanAttnProcessor  # noqa: E402

if not torch.cuda.is_available():
    _patch_groups()

for _handler in logging.getLogger("xfuser").handlers:  # shared by all of xDiT's loggers, at DEBUG on stdout
    _handler.setLevel(logging.ERROR)

__all__ = [
    "ATTENTION_FUNCTION_REGISTRY",
    "PACKAGES_CHECKER",
    "USP",
    "AttentionBackendType",
    "destroy_distributed_environment",
    "destroy_model_parallel",
    "get_cfg_group",
    "get_model_replica_group",
    "get_sp_group",
    "init_distributed_environment",
    "initialize_model_parallel",
    "initialize_runtime_state",
    "register_attention_function",
    "xFuserArgs",
    "xFuserWanAttnProcessor",
]
