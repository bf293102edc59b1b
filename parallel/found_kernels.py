"""Finds out which attention kernels this machine has, by importing their packages: a package that is installed may have
been built for another torch, or be too old. Nothing else in the project looks for them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from parallel.kernels import KERNELS, Capability, Found, KernelName


@dataclass(frozen=True)
class Package:
    """What a kernel needs of a package."""

    name: str
    """As pip knows it."""
    module: str
    function: str
    argument: str
    """Without which the log-sum-exp cannot be had; older versions have not got it."""
    oldest: str | None = None
    """That diffusers takes; None: any version."""
    install: str = ""


PACKAGES: dict[KernelName, Package] = {
    "flash": Package(
        "flash-attn", "flash_attn", "flash_attn_func", "return_attn_probs", "2.6.3", "lockstep-video[flash-attn]"
    ),
    "flash3": Package(
        "flash-attn-3", "flash_attn_interface", "flash_attn_func", "return_attn_probs", None, "FlashAttention-3"
    ),
    "sage": Package("sageattention", "sageattention", "sageattn", "return_lse", "2.1.1", "sageattention"),
}


def find_kernels(device_type: str, kernels: Collection[KernelName] = KERNELS) -> Found:
    """What is absent or broken.

    Args:
        device_type: cpu or cuda. On the CPU no kernel of a package can run, and none is imported.
        kernels: that are looked for.
    """
    if device_type == "cpu":
        return Found()
    absent: dict[KernelName, str] = {}
    broken: dict[KernelName, str] = {}
    for kernel, package in PACKAGES.items():
        if kernel not in kernels:
            continue
        if not _is_installed(package.module):
            absent[kernel] = f"{package.name} is not installed: install {package.install}"
        elif complaint := _complaint_about(package):
            broken[kernel] = complaint
    if not torch.backends.cudnn.is_available():
        absent["cudnn"] = "this torch has no cuDNN: install a build that has"
    return Found(absent, broken)


def capability_of(device: torch.device) -> Capability | None:
    """Compute capability of a card; None of the CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # something that has no spec stands in its place
        return False


def _complaint_about(package: Package) -> str | None:
    """Why an installed package cannot be used, as a sentence fragment; None if it can."""
    if package.oldest is not None and (version := _version_of(package)) and version < Version(package.oldest):
        return f"{package.name} {version} is installed, and {package.oldest} or later is needed"
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(package.module), package.function)
    except Exception as error:  # what a library that was built for another torch raises is not foreseeable
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return f"{package.name} is installed and cannot be imported ({reason})"
    if package.argument not in _arguments(function):
        return f"the installed {package.name} is too old: {package.function} takes no {package.argument}"
    return None


def _version_of(package: Package) -> Version | None:
    try:
        return Version(importlib.metadata.version(package.name))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
