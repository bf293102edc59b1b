"""The arguments of `generate` as plain data, which the folder of a job and the queue keep."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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

    @property
    def video_path(self) -> Path:
        """The path of the video; if there are several, the path that theirs are made from."""
        if self.output:
            return self.output
        named_after = self.prompts[0] if self.prompts else self.prompts_file.stem if self.prompts_file else ""
        return Path("outputs") / f"{slug(named_after)}.mp4"

    @property
    def report_path(self) -> Path:
        return self.report or self.video_path.with_suffix(".json")

    @property
    def settings(self) -> Sequence[str]:
        """All overrides of configuration keys."""
        return (*self.overrides, "runtime.audit=true") if self.audit else self.overrides

    def tasks(self, config: Config, outputs: Outputs) -> list[Task]:
        """Every prompt with every seed, prompts in order and seeds in order within each.

        Args:
            outputs: what their names are made of.

        Raises:
            InvalidInput: the file of prompts cannot be read, or something cannot be used.
        """
        from engine.request import make_tasks  # pydantic, which the queue can do without

        images = (self.image, self.last_image)
        return make_tasks(self.all_prompts(), self.negative_prompt, self.seeds, config.sampling, outputs, *images)

    def all_prompts(self) -> tuple[str, ...]:
        """The prompts of the options, then those of the file.

        Raises:
            InvalidInput: the file cannot be read, or holds no prompt.
        """
        from engine.request import read_prompts

        return (*self.prompts, *(read_prompts(self.prompts_file) if self.prompts_file else ()))


_PATHS = ("prompts_file", "image", "last_image", "output", "report", "latents")
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
    paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
    return Options(**values | paths | {name: tuple(values[name]) for name in _LISTS})


def slug(prompt: str) -> str:
    """A file name for a prompt: its first words, lower case, with dashes; file systems count bytes, not letters."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:60].encode()[:120].decode(errors="ignore").rstrip("-") or "video"
