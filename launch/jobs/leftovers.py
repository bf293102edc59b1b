"""What a job that did not end well has left to go on from, in words."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoints import shard_file
from engine.checkpoints.names import step_folders
from launch.jobs.folder import JobFolder


def describe_leftovers(video: Path, steps: int) -> str | None:
    """What the folder beside a video holds; None if nothing that saves a step.

    Args:
        video: its file, of which the job has one.
        steps: denoise steps of the whole video.
    """
    folder = JobFolder.beside(video).path
    try:
        done = max((_steps_done(each) for each in folder.iterdir() if each.is_dir()), default=0)
    except OSError:  # there is none, or it cannot be read from here
        return None
    if not done:
        return None
    if done >= steps:
        return f"the final latents in {folder}, so that only decoding is left"
    return f"a checkpoint after step {done} of {steps} in {folder}"


def _steps_done(folder: Path) -> int:
    """Of the newest whole checkpoint of one video; 0 without one."""
    newest = next((step for step in step_folders(folder) if shard_file.find(step)), None)
    return int(newest.name.rpartition("-")[2]) if newest else 0
