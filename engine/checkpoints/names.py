"""Names of files and folders in a request's folder of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DONE = "done.json"
"""The run report, in the folder of a request whose output files are all written."""


def step_folder(folder: Path, steps_done: int) -> Path:
    """The folder of the checkpoint after that many steps."""
    return folder / f"step-{steps_done:05d}"


def step_folders(folder: Path) -> list[Path]:
    """The folders of all checkpoints of a request, partial or complete, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def newest_first(folders: Sequence[Path]) -> list[Path]:
    """The same of several folders of one request, in the order of steps; of two alike the one of the earlier folder."""
    found = [step for folder in folders for step in step_folders(folder)]
    return sorted(found, key=lambda step: step.name, reverse=True)
