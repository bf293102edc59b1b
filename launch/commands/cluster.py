"""The commands `lockstep cluster up` and `lockstep cluster down`."""

from __future__ import annotations

from typing import Annotated

import typer

from launch.commands import completion as tab
from launch.commands import options as opt
from launch.commands import show
from launch.queue.state_folder import state_folder

app = typer.Typer(rich_markup_mode=None, help="Gangs that keep a model loaded and serve the queue of jobs.")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", autocompletion=tab.gangs, help="Gangs, as `up` named them; all of them."),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0, help="Seconds after which a gang that has not ended is killed."),
]


@app.callback(invoke_without_command=True)
def cluster(context: typer.Context) -> None:
    """Gangs that keep a model loaded and serve the queue of jobs."""
    show.help_unless_command(context)


@app.command()
def up(
    config: opt.ConfigFile,
    ranks: opt.Ranks = None,
    ray_address: opt.RayAddress = None,
    state: opt.StateFolder = None,
    group: opt.Group = False,
    set_: opt.Overrides = None,
) -> int:
    """Load a model on the ranks of a Ray cluster, and keep it there to do the jobs of the queue. Comes back when it is
    loaded; each further gang shares the queue."""
    from launch.cluster.setup import Setup
    from launch.cluster.up import bring_up
    from launch.gang.address import check_address
    from launch.jobs.checked import announce
    from launch.queue.access import prepare_state_folder

    folder = state_folder(state)
    setup = Setup(config, set_ or (), ranks)
    setup.job(ranks)
    check_address(ray_address)
    prepare_state_folder(folder, group, announce)
    return bring_up(setup, ray_address, folder)


@app.command()
def down(names: Names = None, state: opt.StateFolder = None, timeout: Timeout = 120.0) -> int:
    """End gangs. A job that runs is paused at its next step, and waits for the next gang."""
    from launch.cluster.down import take_down

    return take_down(names or (), state_folder(state), timeout)
