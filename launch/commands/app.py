"""All commands of `lockstep`, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from launch.commands import bench, check, generate, measure, plan, queue, show
from launch.commands.cluster import app as cluster_app

app = typer.Typer(
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Generate video with diffusion transformers on many GPUs, skipping steps in lockstep.",
)
app.add_typer(cluster_app, name="cluster")


def _print_version(asked: bool) -> None:
    if asked:
        print(show.describe_versions())
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and end.")
    ] = False,
) -> None:
    """Generate video with diffusion transformers on many GPUs, skipping steps in lockstep."""
    show.help_unless_command(context)


for command in (
    generate.generate,
    generate.resume,
    measure.sweep,
    measure.calibrate,
    bench.bench,
    check.check,
    plan.plan,
    show.layout,
    show.models,
    show.config,
    show.show,
    *queue.COMMANDS,
):
    app.command()(command)
