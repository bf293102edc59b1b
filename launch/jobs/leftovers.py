"""What a job that did not end well has left to go on from, in words."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoints import shard_file
from engine.checkpoints.names import step_folders
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options


def describe_leftovers(options: Options, steps: int) -> str | None:
    """What the folders of a job hold, beside its video and where the disk of that took no files; None if nothing that
    saves a step.

    Args:
        options: of one video.
        steps: denoise steps of the whole video.
    """
    done, folder = max((_most_steps(folder.path), folder.path) for folder in JobFolder.all_of(options))
    if not done:
        return None
    if done >= steps:
        return f"the final latents in {folder}, so that only decoding is left"
    return f"a checkpoint after step {done} of {steps} in {folder}"


def _most_steps(folder: Path) -> int:
    try:
        return max((_steps_done(each) for each in folder.iterdir() if each.is_dir()), default=0)
    except OSError:  # there is none, or it cannot be read from here
        return 0


def _steps_done(folder: Path) -> int:
    """Of the newest whole checkpoint of one video; 0 without one."""
    newest = next((step for step in step_folders(folder) if shard_file.find(step)), None)
    return int(newest.name.rpartition("-")[2]) if newest else 0
