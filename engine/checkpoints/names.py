"""Where the checkpoints of a request lie in its folder."""

from __future__ import annotations

from pathlib import Path

DONE = "done.json"
"""In the folder of a request whose files are all written: its run report."""


def step_folder(folder: Path, steps_done: int) -> Path:
    """Where the checkpoint after that many steps lies."""
    return folder / f"step-{steps_done:05d}"


def step_folders(folder: Path) -> list[Path]:
    """All checkpoints of a request, begun or complete, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)
