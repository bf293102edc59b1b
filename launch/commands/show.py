"""The commands that only show something: `layout`, `models`, `config` and `show`; and what `--version` prints."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import typer

from launch.commands import options as opt
from launch.jobs.checked import announce
from launch.jobs.config import load_job_config


def layout(config: opt.ConfigFile, devices: opt.Devices, nodes: opt.Nodes = 1, set_: opt.Overrides = None) -> int:
    """Show how a run would be laid out over machines that need not be here, and why."""
    from launch.screens.layout import print_layout

    print_layout(load_job_config(config, set_ or (), announce), nodes, devices, sys.stdout)
    return 0


def models(ranks: opt.Together = 8) -> int:
    """Show which published models run, with which tasks and layouts, and how much memory they take."""
    from launch.screens.models import print_models

    print_models(ranks, sys.stdout)
    return 0


def config(config: opt.ConfigFile, set_: opt.Overrides = None) -> int:
    """Print the configuration as it will be used: checked, and with all defaults."""
    from launch.screens.configuration import print_config

    print_config(load_job_config(config, set_ or (), announce), sys.stdout)
    return 0


def show(video: opt.Video) -> int:
    """Print what a video was made from, as its file says."""
    from engine.generation.tagged import read_tag
    from launch.screens.letters import any_letters
    from launch.screens.tag import print_tag

    print_tag(video, read_tag(video, "VIDEO is"), any_letters(sys.stdout))
    return 0


def help_unless_command(context: typer.Context) -> None:
    """Print the help of a command that has commands of its own, where none of them is named."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def describe_versions() -> str:
    """The versions of Lockstep and of what its videos depend on most, from the packages' metadata; imports none."""
    return ", ".join(f"{name} {_version(name)}" for name in ("lockstep-video", "torch", "diffusers"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
