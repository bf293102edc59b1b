"""The arguments of `generate` as plain data, which the folder of a job and the queue keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import Config
    from engine.request import Outputs, Task


@dataclass(frozen=True)
class Options:
    """The arguments of `generate`, without the number of ranks."""

    config: str
    prompts: Sequence[str] = ()
    prompts_file: Path | None = None
    negative_prompt: str = ""
    seeds: Sequence[int] = (0,)
    image: Path | None = None
    last_image: Path | None = None
    output: Path | None = None
    report: Path | None = None
    latents: Path | None = None
    audit: bool = False
    overrides: Sequence[str] = field(default_factory=tuple)
    videos: Sequence[Path] = ()
    """The file of each video, in the order of the tasks, where the user named none:
    :func:`launch.jobs.names.with_video_names`. It replaces no other file."""
    fallback: Path | None = None
    """Folder for the checkpoints of jobs whose video's disk takes no files."""
    like: Path | None = None
    """The video whose tag these options are from; what differs here is noted when the job is checked."""

    @property
    def video_path(self) -> Path:
        """The path of the video; if there are several, the path that theirs are made from, or that of the first.

        It is to be named before, by the user or by :func:`launch.jobs.names.with_video_names`.
        """
        return self.output or self.videos[0]

    @property
    def report_path(self) -> Path:
        return self.report or self.video_path.with_suffix(".json")

    @property
    def settings(self) -> Sequence[str]:
        """All overrides of configuration keys."""
        return (*self.overrides, "runtime.audit=true") if self.audit else self.overrides

    def tasks(self, config: Config, outputs: Outputs) -> list[Task]:
        """Every prompt with every seed, prompts in order and seeds in order within each, once the prompts are read.

        Args:
            outputs: what their names are made of.

        Raises:
            InvalidInput: something cannot be used.
        """
        from engine.request import make_tasks  # pydantic, which the queue can do without

        images = (self.image, self.last_image)
        tasks = make_tasks(self.prompts, self.negative_prompt, self.seeds, config.sampling, outputs, *images)
        if self.output or not self.videos:
            return tasks
        return [self._named(*each) for each in zip(tasks, self.videos, strict=True)]

    def _named(self, task: Task, video: Path) -> Task:
        report = task.outputs.report if self.report else video.with_suffix(".json")
        return replace(task, outputs=replace(task.outputs, video=video, report=report, replaces=False))

    def with_prompts_read(self) -> Options:
        """The options without a file of prompts, whose prompts come after the others. A pipe can be read only once.

        Raises:
            InvalidInput: the file cannot be read, or holds no prompt.
        """
        from engine.request import read_prompts

        if self.prompts_file is None:
            return self
        return replace(self, prompts=(*self.prompts, *read_prompts(self.prompts_file)), prompts_file=None)


_PATHS = ("prompts_file", "image", "last_image", "output", "report", "latents", "fallback", "like")
_LISTS = ("prompts", "seeds", "overrides")


def options_to_json(options: Options, indent: int | None = None) -> str:
    """Text from which :func:`options_from_json` makes them again."""
    return json.dumps(asdict(options), default=str, indent=indent)


def options_from_json(text: str) -> Options:
    """
    Raises:
        ValueError, TypeError, KeyError: the text is not of :func:`options_to_json`.
    """
    values: dict[str, Any] = json.loads(text)
    if not isinstance(values, dict):
        raise TypeError(f"options are a mapping, not {values!r:.40}")
    paths = {name: Path(values[name]) for name in _PATHS if values.get(name) is not None}
    lists = {name: tuple(values[name]) for name in _LISTS}
    videos = tuple(map(Path, values.get("videos", ())))  # versions before 0.2 had none
    return Options(**values | paths | lists | {"videos": videos})
