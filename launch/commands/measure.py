"""The commands `sweep` and `calibrate`."""

from __future__ import annotations

from functools import partial

from launch.commands import options as opt
from launch.commands.ranks import run_work


def sweep(
    config: opt.ConfigFile,
    prompts: opt.PromptLines,
    output: opt.ResultsFolder,
    methods: opt.Methods = None,
    shares: opt.Shares = None,
    tune_prompts: opt.TunePrompts = 3,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    ranks: opt.Ranks = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
    set_: opt.Overrides = None,
) -> int:
    """Compare cache methods on the same prompts and seeds: speed, PSNR and SSIM against the uncached videos."""
    from launch.screens.measurements import print_table
    from launch.sweep.job import SweepOptions, prepare_sweep
    from launch.sweep.run import run_sweep

    options = SweepOptions(
        config, prompts, output, set_ or (), negative_prompt, image, last_image, methods, shares, tune_prompts
    )
    return run_work(
        launcher,
        ranks,
        ray_address,
        lambda place: prepare_sweep(options, place),
        run_sweep,
        partial(print_table, output),
    )


def calibrate(
    config: opt.ConfigFile,
    prompts: opt.PromptLines,
    output: opt.CalibrationFile,
    negative_prompt: opt.NegativePrompt = "",
    image: opt.Image = None,
    last_image: opt.LastImage = None,
    ranks: opt.Ranks = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
    set_: opt.Overrides = None,
) -> int:
    """Find out on a few prompts which steps to compute, for the cache method `calibrated`."""
    from launch.calibration.job import CalibrateOptions, prepare_calibration
    from launch.calibration.run import run_calibration
    from launch.screens.measurements import print_calibration

    options = CalibrateOptions(config, prompts, output, set_ or (), negative_prompt, image, last_image)
    return run_work(
        launcher,
        ranks,
        ray_address,
        lambda place: prepare_calibration(options, place),
        run_calibration,
        lambda _, stream: print_calibration(output, stream),
    )
