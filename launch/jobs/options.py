"""The options of `generate`: one list for the command, for torchrun and for local ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, for example configs/tiny-wan.yaml.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="What to show. Repeat it for several videos."),
]
PromptsFile = Annotated[Path | None, typer.Option("--prompts", help="A text file with a prompt on each line.")]
NegativePrompt = Annotated[str, typer.Option("--negative-prompt", help="What to keep away from.")]


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", parser=whole_number, help="0 by default. Repeat it for several videos of each prompt."),
]
Image = Annotated[
    Path | None, typer.Option("--image", help="The first frame, for a model that takes one: a PNG or JPEG file.")
]
LastImage = Annotated[
    Path | None, typer.Option("--last-image", help="The last frame, for a model that takes one as well.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="The .mp4 file; outputs/<prompt>.mp4 by default. An older file is replaced."),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="The run report; by default the video's name with .json.")
]
Latents = Annotated[Path | None, typer.Option("--latents", help="Also save the final latents, as .safetensors.")]
Audit = Annotated[
    bool, typer.Option("--audit", help="Compare the ranks bit by bit after each step; slower. As runtime.audit.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of CONFIG: --set cache.method=none. Can be repeated."),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        parser=whole_number,
        help="Processes on this machine; by default what the degrees in CONFIG multiply to; "
        "with parallel=auto one for each GPU.",
    ),
]


class Launcher(StrEnum):
    """Who starts the ranks."""

    LOCAL = "local"
    TORCHRUN = "torchrun"
    RAY = "ray"


LauncherOption = Annotated[
    Launcher,
    typer.Option(
        "--launcher",
        help="Who starts the ranks: this command on this machine, Ray on a cluster, or torchrun, which has then "
        "started this command as one of them.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="The Ray cluster, HOST:PORT or auto; by default $RAY_ADDRESS, else a Ray started for this run alone.",
    ),
]
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What a run that broke off has left beside its video: NAME.checkpoint.")
]
Together = Annotated[
    int, typer.Option("--ranks", parser=whole_number, help="GPUs of one machine that make a video together.")
]
StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder of the queue of jobs, which all its users and gangs see; by default $LOCKSTEP_STATE, else one of "
        "your own.",
    ),
]
Job = Annotated[int, typer.Argument(metavar="JOB", parser=whole_number, help="The job's number.")]
AnyJob = Annotated[
    int | None, typer.Argument(metavar="[JOB]", parser=whole_number, help="Show everything of this one.")
]
Jobs = Annotated[list[int], typer.Argument(metavar="JOB...", parser=whole_number, help="The jobs' numbers.")]
Calibration = Annotated[Path, typer.Option("--output", help="The .json file to write; an older one is replaced.")]
Nodes = Annotated[int, typer.Option("--nodes", parser=whole_number, help="Machines.")]
Devices = Annotated[int, typer.Option("--devices", parser=whole_number, help="Ranks on each machine.")]


@dataclass(frozen=True)
class Options:
    """What was typed after `generate`, but for the number of ranks."""

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

    @classmethod
    def typed(
        cls,
        config: str,
        prompts: Sequence[str] | None,
        prompts_file: Path | None,
        negative_prompt: str,
        seeds: Sequence[int] | None,
        image: Path | None,
        last_image: Path | None,
        output: Path | None,
        report: Path | None,
        latents: Path | None,
        audit: bool,
        overrides: Sequence[str] | None,
    ) -> Options:
        """As typer hands them over: None for a list of which nothing was typed."""
        files = (image, last_image, output, report, latents)
        return cls(config, prompts or (), prompts_file, negative_prompt, seeds or (0,), *files, audit, overrides or ())

    @property
    def video_path(self) -> Path:
        """The video's, or what the names of several begin with."""
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

    def to_argv(self) -> list[str]:
        """Arguments that parse to these options again, whatever the values look like."""
        # "--name=value", since a value of its own that begins with a dash would be taken for an option
        values = [
            *(f"--prompt={prompt}" for prompt in self.prompts),
            f"--negative-prompt={self.negative_prompt}",
            *(f"--seed={seed}" for seed in self.seeds),
            *(f"--set={override}" for override in self.overrides),
            *(["--audit"] if self.audit else []),
        ]
        files = {
            "--prompts": self.prompts_file,
            "--image": self.image,
            "--last-image": self.last_image,
            "--output": self.output,
            "--report": self.report,
            "--latents": self.latents,
        }
        values += [f"{name}={path}" for name, path in files.items() if path is not None]
        return [*values, "--", self.config]


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
