"""Where a job keeps its checkpoints when the disk of its video takes no files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from engine.storage.files import absolute
from launch.jobs.options import Options


def fallback_path(options: Options) -> Path | None:
    """The folder of a job below ``options.fallback``, named after its video; None where no such folder is known."""
    if options.fallback is None:
        return None
    video = absolute(options.video_path)
    told_apart = hashlib.sha256(os.fsencode(video)).hexdigest()[:8]
    return Path.cwd() / options.fallback / f"{video.stem}-{told_apart}.checkpoint"
