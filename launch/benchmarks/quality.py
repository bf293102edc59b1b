"""Quality over speed: threshold, steps skipped, PSNR and SSIM against the uncached video.

    python -m launch.benchmarks.quality configs/tiny-wan.yaml configs/tiny_wan/held_out_prompts.txt

Every threshold runs on the same prompts (one a line; the line number is the seed), each video against the
uncached one of the same prompt and seed. Prints a Markdown table.
"""

import platform
from pathlib import Path
from statistics import mean
from typing import Annotated

import torch
import typer
from torch import Tensor

from engine.checks.preflight import preflight
from engine.engine import Engine
from engine.request import GenerationRequest, Outputs, Task, make_request, read_prompts
from launch.benchmarks.script import run_script
from launch.jobs.config import load_job_config
from launch.ranks.lead import with_cache
from launch.sweep.metrics import psnr, ssim
from parallel.place import Place

THRESHOLDS = (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5)


def main(
    config_file: Annotated[Path, typer.Argument(help="A configuration.")],
    prompt_file: Annotated[Path, typer.Argument(help="Prompts, one a line.")],
    count: Annotated[int, typer.Option(help="How many of them to use.")] = 20,
    decide: Annotated[str, typer.Option(help="cache.decide: together or per_branch.")] = "together",
) -> None:
    """Run all thresholds and print the table."""
    config = load_job_config(config_file, ["cache.method=none"])
    sampling = config.sampling
    captions = read_prompts(prompt_file)[:count]
    requests = [make_request([caption], "", seed, sampling) for seed, caption in enumerate(captions)]
    tasks = [Task(request, Outputs()) for request in requests]
    engine = Engine.load(preflight(config, tasks, Place(1)).config)
    device = engine.model.ranks.device
    reference = [_frames(engine, request) for request in requests]

    print(
        f"{len(captions)} prompts, {sampling.steps} {sampling.scheduler} steps, shift {sampling.shift}, "
        f"guidance {sampling.guidance}, branches decide {decide}; "
        f"torch {torch.__version__} on {platform.processor() or platform.machine()} ({device.type})\n"
    )
    print("| threshold | steps skipped | blocks computed | PSNR mean (worst), dB | SSIM mean (worst) |")
    print("|---|---|---|---|---|")
    for threshold in THRESHOLDS:
        overrides = ["cache.method=dicache", f"cache.threshold={threshold}", f"cache.decide={decide}"]
        cache = load_job_config(config_file, overrides).cache
        runs = [_frames(with_cache(engine, cache, request), request) for request in requests]
        decibels = [psnr(frames, expected) for (frames, *_), (expected, *_) in zip(runs, reference, strict=True)]
        likeness = [ssim(frames, expected) for (frames, *_), (expected, *_) in zip(runs, reference, strict=True)]
        print(
            f"| {threshold} | {mean(skipped for _, skipped, _ in runs):.0%} | {mean(b for *_, b in runs):.0%} "
            f"| {mean(decibels):.1f} ({min(decibels):.1f}) | {mean(likeness):.4f} ({min(likeness):.4f}) |",
            flush=True,
        )


def _frames(engine: Engine, request: GenerationRequest) -> tuple[Tensor, float, float]:
    """Frames uint8 [frames, height, width, 3], the share of steps skipped and the share of blocks computed."""
    result = engine.generate(request)
    frames = engine.decode(result.latents[0])
    assert frames is not None and result.report, "one rank is the first"
    totals = result.report["totals"]
    return frames, totals["skipped"] / len(result.report["steps"]), totals["block_fraction"]


if __name__ == "__main__":
    run_script(main)
