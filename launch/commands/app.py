"""The commands and their options. New knobs go into the configuration, not here."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import typer

from engine.errors import InvalidInput
from launch.commands import queue as queue_commands
from launch.commands import sweep_options as sweep_opt
from launch.commands.cluster import app as cluster_app
from launch.jobs import options as opt
from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.options import Launcher, Options
from launch.jobs.preparation import Job, prepare
from launch.process.signals import become_rank

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Generate video with diffusion transformers on many GPUs, skipping steps in lockstep.",
)
app.add_typer(cluster_app, name="cluster")


@app.command()
def generate(
    config: opt.ConfigFile,
    prompt: opt.Prompts = None,
    prompts: opt.PromptsFile = None,
    negative_prompt: opt.NegativePrompt = "",
    seed: opt.Seeds = None,
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    ranks: opt.Ranks = None,
    output: opt.Output = None,
    report: opt.Report = None,
    latents: opt.Latents = None,
    audit: opt.Audit = False,
    set_: opt.Overrides = None,
    launcher: opt.LauncherOption = Launcher.LOCAL,
    ray_address: opt.RayAddress = None,
) -> int:
    """Generate videos from prompts, on one or more processes of this machine or of a Ray cluster."""
    options = Options.typed(
        config, prompt, prompts, negative_prompt, seed, image, last_image, output, report, latents, audit, set_
    )
    _refuse_address(launcher, ray_address)
    program, argv = "launch.generate", options.to_argv()
    if launcher is Launcher.RAY:
        return _run_on_ray(partial(prepare, options), ranks, ray_address, resume=False)
    if launcher is Launcher.TORCHRUN:
        return _run_as_rank(options, ranks, program, argv, resume=False)
    return _run(prepare(options, ranks), program, argv)


@app.command()
def resume(
    folder: opt.Folder,
    ranks: opt.Ranks = None,
    set_: opt.Overrides = None,
    launcher: opt.LauncherOption = Launcher.LOCAL,
    ray_address: opt.RayAddress = None,
) -> int:
    """Go on with a run that broke off, from its newest checkpoint; on another number of ranks if need be."""
    overrides = set_ or ()
    options = JobFolder(folder).read(overrides)
    _refuse_address(launcher, ray_address)
    program, argv = "launch.resume", [*(f"--set={override}" for override in overrides), "--", str(folder)]
    if launcher is Launcher.RAY:
        return _run_on_ray(partial(prepare, options), ranks, ray_address, resume=True)
    if launcher is Launcher.TORCHRUN:
        return _run_as_rank(options, ranks, program, argv, resume=True)
    return _run(prepare(options, ranks, resume=True), program, argv)


def _run(job: Job, program: str, argv: Sequence[str]) -> int:
    """Run a checked job on ranks of this machine, each of which runs the program. Returns the exit code."""
    with job.folder.hint_unless_finished() if job.folder else nullcontext():
        if job.degrees.world_size == 1:
            from launch.ranks.rank import run_rank

            return run_rank(lambda: job)
        from launch.ranks.local import start_ranks

        return start_ranks(program, argv, job.degrees.world_size)


def _refuse_address(launcher: Launcher, address: str | None) -> None:
    if launcher is not Launcher.RAY and address is not None:
        raise InvalidInput(f"--ray-address is {address}, but --launcher is {launcher.value}: add --launcher ray.")


def _run_as_rank(options: Options, ranks: int | None, program: str, argv: Sequence[str], resume: bool) -> int:
    """Be the rank that torchrun says this process is. Returns the exit code.

    Args:
        ranks: torchrun's number of them, where it was given here too.
        program: what torchrun could have started directly, with ``argv``.

    Raises:
        InvalidInput: torchrun has not started this process, or started another number of them.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        escaped = [argument.replace("$", "$$") for argument in argv]  # torchrun substitutes ${local_rank}
        command = shlex.join(["torchrun", "--nproc-per-node", str(ranks or "N"), "-m", program, *escaped])
        raise InvalidInput(
            f"--launcher torchrun is for a process that torchrun starts, and this is none: type `{command}`."
        )
    if ranks not in (None, int(os.environ["WORLD_SIZE"])):
        raise InvalidInput(
            f"--ranks is {ranks}, but torchrun has started {os.environ['WORLD_SIZE']}: leave --ranks out."
        )
    become_rank()
    from launch.ranks.rank import run_own_rank

    return run_own_rank(lambda: options, resume)


def _run_on_ray(check: Callable[..., Job], ranks: int | None, address: str | None, resume: bool) -> int:
    """Check a job, then run it on a Ray cluster. Returns the exit code."""
    job = check(ranks, resume=resume, elsewhere=True)
    with job.folder.hint_unless_finished() if job.folder else nullcontext():
        from launch.gang.run import run_on_ray  # imports ray, which takes seconds

        return run_on_ray(job, check, ranks, address, resume)


@app.command()
def sweep(
    config: opt.ConfigFile,
    prompts: sweep_opt.Prompts,
    output: sweep_opt.Output,
    methods: sweep_opt.Methods = None,
    shares: sweep_opt.Shares = None,
    tune_prompts: sweep_opt.TunePrompts = 3,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    ranks: opt.Ranks = None,
    set_: opt.Overrides = None,
) -> int:
    """Compare cache methods on the same prompts and seeds: speed, PSNR and SSIM against the uncached videos."""
    from launch.sweep.job import SweepOptions, prepare_sweep

    options = SweepOptions(
        config, prompts, output, methods, shares, tune_prompts, negative_prompt, image, last_image, set_ or ()
    )
    job = prepare_sweep(options, ranks)
    if job.degrees.world_size > 1:
        from launch.ranks.local import start_ranks

        return start_ranks("launch.sweep", options.to_argv(), job.degrees.world_size)
    from launch.ranks.rank import run_part
    from launch.screens.measurements import print_sweep
    from launch.sweep.run import run_sweep

    return run_part(lambda progress: run_sweep(job, progress, rank=0), print_sweep)


@app.command()
def calibrate(
    config: opt.ConfigFile,
    prompts: sweep_opt.Prompts,
    output: opt.Calibration,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    ranks: opt.Ranks = None,
    set_: opt.Overrides = None,
) -> int:
    """Find out on a few prompts which steps to compute, for the cache method `calibrated`."""
    from launch.calibration.job import CalibrateOptions, prepare_calibration
    from launch.calibration.run import run_calibration
    from launch.screens.measurements import print_calibration

    options = CalibrateOptions(config, prompts, output, set_ or (), negative_prompt, image, last_image)
    job = prepare_calibration(options, ranks)
    if job.degrees.world_size > 1:
        from launch.ranks.local import start_ranks

        return start_ranks("launch.calibrate", options.to_argv(), job.degrees.world_size)
    from launch.ranks.rank import run_part

    return run_part(lambda progress: run_calibration(job, progress, rank=0), print_calibration)


@app.command()
def layout(config: opt.ConfigFile, devices: opt.Devices, nodes: opt.Nodes = 1, set_: opt.Overrides = None) -> int:
    """Show how a run would be laid out over machines that need not be here, and why."""
    from launch.screens.layout import print_layout

    print_layout(load_job_config(config, set_ or ()), nodes, devices, sys.stdout)
    return 0


@app.command()
def models(ranks: opt.Together = 8) -> int:
    """Show which published models run, with which tasks and layouts, and how much memory they take."""
    from launch.screens.models import print_models

    print_models(ranks, sys.stdout)
    return 0


@app.command()
def config(config: opt.ConfigFile, set_: opt.Overrides = None) -> int:
    """Print the configuration as it will be used: checked, and with all defaults."""
    from launch.screens.configuration import print_config

    print_config(load_job_config(config, set_ or ()), sys.stdout)
    return 0


queue_commands.add_to(app)
