"""The options of `generate`: one list for the command, for torchrun and for local ranks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, for example configs/tiny-wan.yaml.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="What to show. Repeat it for several videos of one batch."),
]
NegativePrompt = Annotated[str, typer.Option("--negative-prompt", help="What to keep away from.")]


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


Seed = Annotated[
    int,
    typer.Option("--seed", parser=_whole_number, help="The same seed gives the same video at any number of ranks."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="The .mp4 file; outputs/<prompt>.mp4 by default. An older file is replaced."),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="The run report; by default the video's name with .json.")
]
Latents = Annotated[Path | None, typer.Option("--latents", help="Also save the final latents, as .safetensors.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of CONFIG: --set cache.method=none. Can be repeated."),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        parser=_whole_number,
        help="Processes on this machine; by default what the degrees in CONFIG multiply to.",
    ),
]


@dataclass(frozen=True)
class Options:
    """What was typed after `generate`, but for the number of ranks."""

    config: str
    prompts: Sequence[str] = ()
    negative_prompt: str = ""
    seed: int = 0
    output: Path | None = None
    report: Path | None = None
    latents: Path | None = None
    overrides: Sequence[str] = field(default_factory=tuple)

    @property
    def video_path(self) -> Path:
        return self.output or Path("outputs") / f"{slug(self.prompts[0] if self.prompts else '')}.mp4"

    @property
    def report_path(self) -> Path:
        return self.report or self.video_path.with_suffix(".json")

    def to_argv(self) -> list[str]:
        """Arguments that parse to these options again, whatever the values look like."""
        # "--name=value", since a value of its own that begins with a dash would be taken for an option
        values = [
            *(f"--prompt={prompt}" for prompt in self.prompts),
            f"--negative-prompt={self.negative_prompt}",
            f"--seed={self.seed}",
            *(f"--set={override}" for override in self.overrides),
        ]
        files = {"--output": self.output, "--report": self.report, "--latents": self.latents}
        values += [f"{name}={path}" for name, path in files.items() if path is not None]
        return [*values, "--", self.config]


def slug(prompt: str) -> str:
    """A file name for a prompt: its first words, lower case, with dashes."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:60].rstrip("-") or "video"
