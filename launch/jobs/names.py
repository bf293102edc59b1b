"""The files of videos for which the user named none: a name says what was made, and no older file is replaced."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from engine.config import Config
from engine.errors import InvalidInput
from engine.request import GenerationRequest, Outputs, Task
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.jobs.reports import read_report

_FOLDER = Path("outputs")
_REPORTED = {"schema", "steps", "output"}  # keys of every run report


def with_video_names(
    options: Options, config: Config, taken: Callable[[Path], bool] = os.path.lexists, again: bool = False
) -> Options:
    """The options with a file for each video, in the order of the tasks; unchanged where the user named one.

    A name is made of the prompt, the seed and a hash of everything that decides what the video shows:
    ``a-red-circle-seed0-1f0c3a52.mp4``. Where that video or its report is there already, a number is added.

    Args:
        config: as it was given.
        taken: whether something has or will have this path.
        again: the run may go on with an earlier run of the same job, so it takes the newest names that such a run has
            used; what is finished of them is not made anew.

    Raises:
        InvalidInput: a prompt, a seed or an image cannot be used.
    """
    if options.output or options.videos:
        return options
    videos: list[Path] = []
    for task in options.tasks(config, Outputs()):
        stem = f"{slug(task.request.prompts[0])}-seed{task.request.seed}-{_hash(task.request, config)}"
        videos.append(_choose(stem, lambda path: path in videos or taken(path), again))
    return replace(options, videos=tuple(videos))


def _choose(stem: str, taken: Callable[[Path], bool], again: bool) -> Path:
    newest: Path | None = None
    for number in count(1):
        video = _FOLDER / f"{stem}-{number}.mp4" if number > 1 else _FOLDER / f"{stem}.mp4"
        if taken(video) or taken(video.with_suffix(".json")):
            newest = video
            continue
        begun = JobFolder.beside(video).holds_job
        return newest if again and newest and not begun else video
    raise AssertionError("count has no end")


def _hash(request: GenerationRequest, config: Config) -> str:
    """Eight hexadecimal digits."""
    decides = {
        "request": request.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "cache": config.cache.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]


def refuse_foreign_reports(options: Options, tasks: Sequence[Task]) -> None:
    """Refuse to replace a file that the user has not named: the report is written beside the video, where a file of its
    name may be anything.

    Raises:
        InvalidInput: there is such a file, and it is no run report.
    """
    for report in (task.outputs.report for task in tasks if options.report is None):
        if report and report.is_file() and not set(read_report(report)) >= _REPORTED:
            raise InvalidInput(
                f"{report}, where the run report would be written, is another file: name one with --report, or give "
                "another --output."
            )


def slug(prompt: str) -> str:
    """A file name for a prompt: its first words, lower case, with dashes; file systems count bytes, not letters."""
    words = re.sub(r"[^\w]+", "-", prompt[:1000].lower()).strip("-")
    return words[:60].encode()[:120].decode(errors="ignore").rstrip("-") or "video"
