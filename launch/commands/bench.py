"""The command `bench`: measures a configuration, or compares what was measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engine.errors import InvalidInput
from launch.commands import bench_options as own
from launch.commands import options as opt
from launch.commands.mlperf import refuse_beside_mlperf, run_mlperf_test
from launch.commands.ranks import refuse_address_without_ray, refuse_unless_started_here, run_work
from launch.ranks.place import Launcher, find_place
from parallel.place import Place

if TYPE_CHECKING:
    from launch.bench.document import BenchDocument
    from launch.bench.job import BenchJob
    from launch.bench.options import BenchOptions

_OF_COMPARISONS = ("--compare", "--slower-by", "--report")


def bench(
    context: typer.Context,
    config: own.BenchConfig = None,
    output: own.BenchFolder = None,
    rounds: own.Rounds = None,
    warmup: own.Warmup = None,
    prompts: own.BenchPrompts = None,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    scale: own.Scale = None,
    against: own.Against = None,
    against_build: own.AgainstBuild = None,
    trace: own.Trace = False,
    keep_videos: own.KeepVideos = False,
    mlperf: own.Mlperf = None,
    latent: own.Latent = None,
    ranks: opt.Ranks = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
    set_: opt.Overrides = None,
    compare: own.Compare = None,
    slower_by: own.SlowerBy = None,
    report: own.ComparisonReport = None,
    turns: own.Turns = None,
) -> int:
    """Measure how fast videos are made, with the cache and without it, and what takes the time; or compare two such
    measurements."""
    given = _given(context)
    if compare is not None:
        return _compare(compare, slower_by, report, [name for name in given if name not in _OF_COMPARISONS])
    for name in _OF_COMPARISONS[1:]:
        if name in given:
            raise InvalidInput(f"{name} is {str(given[name])!r}, but nothing is compared: add --compare A B.")
    if config is None:
        raise InvalidInput("There is nothing to measure: name a CONFIG, or two results with --compare A B.")
    if output is None:
        raise InvalidInput("There is no folder for the results: name one with --output.")
    if mlperf is not None:
        refuse_beside_mlperf(given)
        return run_mlperf_test(config, mlperf, output, prompts, latent, ranks, launcher, ray_address, set_ or ())
    if latent is not None:
        raise InvalidInput(
            f"--latent is {str(latent)!r}, which belongs to MLPerf's test: add --mlperf, or leave it out."
        )
    from launch.bench.options import ROUNDS, WARMUP, BenchOptions

    options = BenchOptions(
        config,
        output,
        prompts,
        ROUNDS if rounds is None else rounds,
        WARMUP if warmup is None else warmup,
        against,
        against_build,
        trace,
        keep_videos,
        set_ or (),
        negative_prompt,
        image,
        last_image,
        led=turns is not None,
    )
    if scale is not None and turns is None:
        return _scale(options, scale, ranks, launcher, ray_address)
    return _measure(options, ranks, launcher, ray_address, turns)


def _given(context: typer.Context) -> dict[str, object]:
    """What the command line gives, by the names that a person knows."""
    values = [(each, context.params.get(each.name)) for each in context.command.params]
    return {
        "CONFIG" if each.name == "config" else each.opts[0]: value
        for each, value in values
        if value is not None and value != each.default and value not in ([], ())
    }


def _measure(
    options: BenchOptions, ranks: int | None, launcher: Launcher | None, ray_address: str | None, turns: str | None
) -> int:
    """Measure on one number of ranks. Returns the exit code."""
    if (build := options.against_build) is not None:
        refuse_unless_started_here(launcher, f"--against-build is {str(build)!r}, of which each build")
    if turns is not None:
        from launch.bench.served import serve_bench

        return serve_bench(options, ranks, turns)
    from launch.bench.job import prepare_bench
    from launch.bench.run import run_bench
    from launch.bench.summary import print_results

    prepare, show = partial(prepare_bench, options), partial(print_results, options.output)
    return run_work(launcher, ranks, ray_address, prepare, run_bench, show)


def _scale(
    options: BenchOptions, scale: str, ranks: int | None, launcher: Launcher | None, ray_address: str | None
) -> int:
    """Measure several numbers of ranks. Returns the exit code."""
    from launch.bench.folder import BenchFolder
    from launch.bench.job import prepare_bench
    from launch.bench.run import run_bench
    from launch.bench.scale import part_arguments, read_counts, run_scale
    from launch.bench.summary import print_results
    from launch.bench.writing import write_results

    if ranks is not None:
        raise InvalidInput(f"--ranks is {ranks}, but --scale is {scale} and names the numbers of ranks: leave one out.")
    refuse_address_without_ray(launcher, ray_address)
    on_ray = launcher is Launcher.RAY
    if not find_place(launcher).is_launcher:
        raise InvalidInput(
            f"--scale is {scale}, which this command starts by itself, one number of ranks after the other: measure "
            "each number on its own with torchrun, or all of them with --launcher ray."
        )

    def prepare(folder: Path, place: Place) -> BenchJob:
        return prepare_bench(replace(options, output=folder), place)

    def start(count: int, folder: Path) -> int:
        if on_ray:
            return run_work(launcher, count, ray_address, partial(prepare, folder), run_bench, lambda *summary: None)
        from launch.ranks.local import start_ranks  # imports torch's launcher

        return start_ranks(count, arguments=part_arguments(sys.argv[1:], count, folder))

    def finish(document: BenchDocument) -> None:
        results = write_results(BenchFolder(options.output), document)
        print_results(options.output, results, sys.stdout)

    def check(place: Place, folder: Path) -> BenchJob:
        return prepare(folder, replace(place, elsewhere=on_ray))

    return run_scale(options.output, read_counts(scale), check, start, finish)


def _compare(files: tuple[Path, Path], slower_by: float | None, report: Path | None, others: list[str]) -> int:
    if others:
        raise InvalidInput(f"--compare reads two results and measures nothing: leave out {', '.join(others)}.")
    from launch.bench.compare import SLOWER_BY
    from launch.bench.comparing import compare_results

    return compare_results(*files, SLOWER_BY if slower_by is None else slower_by, report, sys.stdout)
