"""The options that `generate` and `submit` have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import InvalidInput
from launch.commands import completion as tab
from launch.commands.options import Image, LastImage, Overrides, whole_number
from launch.jobs.like import options_like
from launch.jobs.options import Options

ConfigFile = Annotated[
    str | None,
    typer.Argument(
        metavar="CONFIG",
        autocompletion=tab.config_files,
        help="YAML file, for example configs/tiny-wan.yaml; may be left out with --like.",
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="What to show. Repeat it for several videos."),
]
PromptsFile = Annotated[Path | None, typer.Option("--prompts", help="A text file with a prompt on each line.")]
NegativePrompt = Annotated[str | None, typer.Option("--negative-prompt", help="What to keep away from.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", parser=whole_number, help="0 by default. Repeat it for several videos of each prompt."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        help="The .mp4 file; an older one is replaced. By default outputs/PROMPT-seedN-HASH.mp4, which replaces none.",
    ),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="The run report; by default the video's name with .json.")
]
Latents = Annotated[Path | None, typer.Option("--latents", help="Also save the final latents, as .safetensors.")]
Fallback = Annotated[
    Path | None,
    typer.Option(
        "--fallback",
        help="Folder that keeps the latents if the video's disk takes no files; by default one in the state folder.",
    ),
]
Audit = Annotated[
    bool, typer.Option("--audit", help="Compare the ranks bit by bit after each step; slower. As runtime.audit.")
]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="VIDEO",
        autocompletion=tab.video_files,
        help="Make the video of this .mp4 file again, as its tag says; other options and --set win over that.",
    ),
]
NoMetadata = Annotated[
    bool,
    typer.Option("--no-metadata", help="Do not write the request into the video. As --set runtime.metadata=false."),
]


def video_options(
    config: ConfigFile = None,
    prompt: Prompts = None,
    prompts: PromptsFile = None,
    negative_prompt: NegativePrompt = None,
    seed: Seeds = None,
    image: Image = None,
    last_image: LastImage = None,
    like: Like = None,
    output: Output = None,
    report: Report = None,
    latents: Latents = None,
    fallback: Fallback = None,
    audit: Audit = False,
    no_metadata: NoMetadata = False,
    set_: Overrides = None,
) -> Options:
    """
    Raises:
        InvalidInput: there is neither CONFIG nor --like, or that names no video that can be made again.
    """
    settings = (*(set_ or ()), *(["runtime.metadata=false"] if no_metadata else []))
    if like is not None:
        options = options_like(like, config, settings, image, last_image)
    elif config is not None:
        options = Options(config, overrides=settings)
    else:
        raise InvalidInput("There is no CONFIG: name a YAML file, for example configs/tiny-wan.yaml.")
    files = {"image": image, "last_image": last_image, "output": output, "report": report, "latents": latents}
    given: dict[str, Any] = {"audit": audit, "fallback": fallback, **files}
    if prompt or prompts:
        given |= {"prompts": prompt or (), "prompts_file": prompts}
    if negative_prompt is not None:
        given["negative_prompt"] = negative_prompt
    if seed:
        given["seeds"] = seed
    return replace(options, **given)
