"""The options of `bench` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.commands import completion as tab
from launch.commands.options import whole_number

BenchConfig = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG]", autocompletion=tab.config_files, help="YAML file, for example configs/tiny-wan.yaml."
    ),
]
BenchFolder = Annotated[
    Path | None, typer.Option("--output", help="Folder for results; one that holds some is refused.")
]
Rounds = Annotated[
    int | None,
    typer.Option("--rounds", parser=whole_number, help="Times that each prompt is made, and counted; 5 by default."),
]
Warmup = Annotated[
    int | None,
    typer.Option("--warmup", parser=whole_number, help="Videos made before, and not counted; 1 by default."),
]
BenchPrompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="A text file with a prompt a line; its place is its seed. By default one prompt for each replica.",
    ),
]
Scale = Annotated[
    str | None,
    typer.Option("--scale", metavar="N,N,...", help="Measure these numbers of local ranks one after the other: 1,2,4."),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="REF_CONFIG",
        autocompletion=tab.config_files,
        help="A configuration of the same model and layout, which makes the same videos by turns.",
    ),
]
AgainstBuild = Annotated[
    Path | None,
    typer.Option(
        "--against-build",
        metavar="FOLDER",
        help="Another checkout of this project, which makes the same videos by turns. Its own .venv runs it, if any.",
    ),
]
Turns = Annotated[
    str | None,
    typer.Option("--turns", metavar="ADDRESS", hidden=True, help="Given by the build that measures this one."),
]
Trace = Annotated[
    bool,
    typer.Option("--trace", help="Write a trace of one more video for each rank, which ui.perfetto.dev opens."),
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        metavar="A B",
        help="Compare two results, folders or files; exit code 1 where B is slower than A, beyond the noise.",
    ),
]
SlowerBy = Annotated[
    float | None,
    typer.Option("--slower-by", metavar="SHARE", help="With --compare: how much slower B may be; 0.02 by default."),
]
ComparisonReport = Annotated[
    Path | None, typer.Option("--report", help="With --compare: a JSON file for the comparison.")
]
KeepVideos = Annotated[
    bool, typer.Option("--keep-videos", help="Keep the videos, in videos/ below --output; else they are removed.")
]
Mlperf = Annotated[
    str | None,
    typer.Option(
        "--mlperf",
        metavar="[singlestream|offline]",
        help="Have MLPerf's load generator measure, by the rules of its text-to-video test (docs/bench-mlperf.md).",
    ),
]
Latent = Annotated[
    Path | None,
    typer.Option("--latent", help="With --mlperf, the file of the noise that all videos begin with: .pt or .npy."),
]
