"""The options of all commands. New knobs go into the configuration, not here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from launch.commands import completion as tab
from launch.jobs.resuming import Resume
from launch.queue.records import State
from launch.ranks.place import Launcher

ConfigFile = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", autocompletion=tab.config_files, help="YAML file, for example configs/tiny-wan.yaml."
    ),
]
NegativePrompt = Annotated[str, typer.Option("--negative-prompt", help="What to keep away from.")]


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


Image = Annotated[
    Path | None, typer.Option("--image", help="The first frame, for a model that takes one: a PNG or JPEG file.")
]
LastImage = Annotated[
    Path | None, typer.Option("--last-image", help="The last frame, for a model that takes one as well.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", autocompletion=tab.keys, help="Override a key of CONFIG: --set cache.method=none. Can be repeated."
    ),
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


def layout_goal(text: str) -> str:
    if text in (choices := ("latency", "throughput")):
        return text
    raise typer.BadParameter(f"{text!r} is not one of {', '.join(choices)}")


LayoutGoal = Annotated[
    str | None,
    typer.Option(
        "--goal",
        parser=layout_goal,
        metavar="[latency|throughput]",
        help="As parallel.goal: throughput makes several videos at a time where the model fits, latency each as fast "
        "as all ranks can.",
    ),
]
LauncherName = Annotated[
    Launcher | None,
    typer.Option(
        "--launcher",
        help="Who starts the ranks: this command on this machine, Ray on a cluster, or torchrun, which has then "
        "started this command as one of them; by default torchrun where it has, else this command.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="The Ray cluster, HOST:PORT or auto; by default $RAY_ADDRESS, else a Ray started for this run alone.",
    ),
]


def resume_choice(text: str) -> Resume:
    if text in (choices := [Resume.AUTO.value, Resume.NEVER.value, Resume.ONLY.value]):
        return Resume(text)
    raise typer.BadParameter(f"{text!r} is not one of {', '.join(choices)}")


ResumeChoice = Annotated[
    Resume | None,
    typer.Option(
        "--resume",
        parser=resume_choice,
        autocompletion=tab.resume_choices,
        metavar="[auto|never|only]",
        help="What to do with what an earlier run of the same command has left: go on if there is something, begin "
        "anew, or refuse if there is nothing. By default auto where torchrun or a scheduler has restarted the command; "
        "elsewhere a run that broke off is not touched.",
    ),
]
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        autocompletion=tab.checkpoint_folders,
        help="What a run that broke off has left beside its video: NAME.checkpoint.",
    ),
]
Video = Annotated[
    Path, typer.Argument(metavar="VIDEO", autocompletion=tab.video_files, help="An .mp4 file that Lockstep has made.")
]
Together = Annotated[
    int, typer.Option("--ranks", parser=whole_number, help="GPUs of one machine that make a video together.")
]
ModelCheck = Annotated[
    bool,
    typer.Option(
        "--model-check/--no-model-check",
        help="Check the model as `generate` does before it is queued; without, a machine that lacks it can submit, and "
        "gangs check.",
    ),
]
StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder of the queue of jobs, which all its users and gangs see; by default $LOCKSTEP_STATE, else one of "
        "your own.",
    ),
]
Group = Annotated[
    bool,
    typer.Option(
        "--group",
        help="Share the folder of the queue with its group, which is remembered; else it is yours alone.",
    ),
]
Job = Annotated[
    int, typer.Argument(metavar="JOB", parser=whole_number, autocompletion=tab.running_jobs, help="The job's number.")
]
AnyJob = Annotated[
    int | None,
    typer.Argument(
        metavar="[JOB]", parser=whole_number, autocompletion=tab.any_jobs, help="Show everything of this one."
    ),
]
Jobs = Annotated[
    list[int],
    typer.Argument(
        metavar="JOB...", parser=whole_number, autocompletion=tab.unfinished_jobs, help="The jobs' numbers."
    ),
]
StatesShown = Annotated[
    list[State] | None,
    typer.Option("--state-is", case_sensitive=False, help="Show only jobs of this state. Can be repeated."),
]
Last = Annotated[
    int | None,
    typer.Option("--last", metavar="N", parser=whole_number, help="Show the newest N jobs; else 50 and all that run."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document with everything, for programs (docs/cluster.md).")
]


def age_seconds(text: str) -> float:
    """The seconds of a number with a unit: 30d, 12h, 45m."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no age: give a number and a unit, as in 30d, 12h or 45m")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


OlderThan = Annotated[
    float,
    typer.Option(
        "--older-than", metavar="AGE", parser=age_seconds, help="How long ago they ended, at least: 30d, 12h, 45m."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
CalibrationFile = Annotated[Path, typer.Option("--output", help="The .json file to write; an older one is replaced.")]
Nodes = Annotated[int, typer.Option("--nodes", parser=whole_number, help="Machines.")]
Devices = Annotated[int, typer.Option("--devices", parser=whole_number, help="Ranks on each machine.")]
PromptLines = Annotated[
    Path, typer.Option("--prompts", help="A text file with a prompt a line; its place is its seed.")
]
ResultsFolder = Annotated[
    Path, typer.Option("--output", help="Folder for results; a sweep that broke off goes on from what is there.")
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        autocompletion=tab.methods,
        help="Names with commas between them, or a YAML file with a list of cache sections; by default every method "
        "that the model allows.",
    ),
]
Shares = Annotated[
    str | None,
    typer.Option("--shares", help="Find settings that skip these shares of the steps, in percent: 50,60,70."),
]
TunePrompts = Annotated[
    int, typer.Option("--tune-prompts", parser=whole_number, help="How many of the prompts to find them on.")
]
