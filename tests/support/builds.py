"""Copies of this tree that do something else."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.small_model import ROOT

ROOMS = ("dicache", "engine", "launch", "parallel")
EXPERTS = Path("engine", "denoise", "experts.py")
"""Where :func:`changed_steps` changes a build."""


def copy_build(folder: Path) -> Path:
    """A copy without an interpreter of its own."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def changed_steps(folder: Path, afterwards: str) -> Path:
    """A copy whose ranks do something after the transformer in each step.

    Args:
        afterwards: statements that may use `seconds`, which the transformer took, and `step`, counted in the process.
    """
    copy_build(folder)
    indented = "\n".join(f"    {line}" for line in afterwards.strip().splitlines())
    with (folder / EXPERTS).open("a") as file:
        file.write(
            f"""

import itertools, os, signal, time
_steps, _whole = itertools.count(), Experts.predict


def _changed(self, *arguments):
    started = time.perf_counter()
    found = _whole(self, *arguments)
    seconds, step = time.perf_counter() - started, next(_steps)
{indented}
    return found


Experts.predict = _changed
"""
        )
    return folder
