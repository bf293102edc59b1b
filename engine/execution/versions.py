"""Versions of the software that decides the result."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

_DECIDING = ("lockstep-video", "torch", "diffusers", "transformers", "xfuser")
_OTHERS = (
    "triton",
    "accelerate",
    "yunchang",
    "flash-attn",
    "torchao",
    "gguf",
    "ray",
    "peft",
    "safetensors",
    "av",
    "numpy",
)


def describe_versions() -> dict[str, str]:
    """By name of the package, and Python's own: what a result is kept with."""
    return _installed(_DECIDING, "unknown")


def describe_all_versions() -> dict[str, str]:
    """Those, and of what a fault may be in besides: further packages, and what torch was built with, where there."""
    import torch

    found = describe_versions() | _installed(_OTHERS)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if torch.version.hip:
        found["rocm"] = torch.version.hip
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
        if torch.distributed.is_nccl_available():
            found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def _installed(packages: Sequence[str], absent: str = "") -> dict[str, str]:
    """
    Args:
        absent: the version of what is not there, as where a checkout was not installed; left out where empty.
    """
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if absent:
                found[package] = absent
    return found
