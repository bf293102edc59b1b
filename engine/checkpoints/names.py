"""Names of files and folders in a request's folder of checkpoints."""

from __future__ import annotations

from pathlib import Path

DONE = "done.json"
"""The run report, in the folder of a request whose output files are all written."""


def step_folder(folder: Path, steps_done: int) -> Path:
    """The folder of the checkpoint after that many steps."""
    return folder / f"step-{steps_done:05d}"


def step_folders(folder: Path) -> list[Path]:
    """The folders of all checkpoints of a request, partial or complete, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)
