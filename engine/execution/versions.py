"""Versions of the software that decides the result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("lockstep-video", "torch", "diffusers", "transformers", "xfuser")


def describe_versions() -> dict[str, str]:
    """By name of the package, and Python's own."""
    return {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
