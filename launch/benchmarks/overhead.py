"""The overhead of the engine over the diffusers pipeline, and the time that the cache saves.

    python -m launch.benchmarks.overhead configs/tiny-wan.yaml --rounds 7

One process, one rank. The pipeline, the engine without a cache and the engine with the configured cache take turns, so
that a change in the machine's speed affects all of them; the results are ratios within each round.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from dicache.config import CacheConfig
from engine.checks.preflight import preflight
from engine.config import Config
from engine.engine import Engine
from engine.request import Outputs, Task, make_request
from launch.benchmarks.script import run_script
from launch.benchmarks.wan_pipeline import load_pipeline
from launch.jobs.config import load_job_config
from parallel.place import Place

PROMPT = "a red circle moving right on a navy background"


@dataclass(frozen=True)
class Round:
    """Seconds of one round, for prompt encoding and denoising without decoding."""

    pipeline: float
    engine: float
    uncached_denoise: float
    cached_denoise: float
    block_fraction: float

    @property
    def overhead(self) -> float:
        """Time of the engine without a cache over that of the pipeline."""
        return self.engine / self.pipeline

    @property
    def realised(self) -> float:
        """Measured saving of denoise time over the saving that the share of computed blocks predicts."""
        return (1 - self.cached_denoise / self.uncached_denoise) / (1 - self.block_fraction)


def main(
    config_file: Annotated[Path, typer.Argument(help="A configuration with the unipc scheduler.")],
    rounds: Annotated[int, typer.Option(help="Rounds to take the median of; one more goes first, uncounted.")] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads of torch.")] = 1,
) -> None:
    """Print the ratios of every round and their medians."""
    torch.set_num_threads(threads)
    config = load_job_config(config_file)
    request = make_request([PROMPT], "", 0, config.sampling)
    config = preflight(config, [Task(request, Outputs())], Place(1)).config
    cached_engine = Engine.load(config)
    device = cached_engine.model.ranks.device
    off = CacheConfig(method="none")
    uncached_engine = cached_engine.configured(config.model_copy(update={"cache": off}))
    pipeline = _pipeline(config, device)

    print("| round | engine / pipeline | blocks computed | denoise time with cache / without | promise kept |")
    print("|---|---|---|---|---|")
    taken = []
    for number in range(-1, rounds):
        pipeline_seconds, _ = _timed(pipeline, device)
        engine_seconds, uncached = _timed(lambda: uncached_engine.generate(request).report, device)
        _, cached = _timed(lambda: cached_engine.generate(request).report, device)
        this = Round(
            pipeline_seconds,
            engine_seconds,
            uncached["totals"]["seconds"]["denoise"],
            cached["totals"]["seconds"]["denoise"],
            cached["totals"]["block_fraction"],
        )
        if number >= 0:  # the first round warms up
            taken.append(this)
            ratio = this.cached_denoise / this.uncached_denoise
            print(f"| {number} | {this.overhead:.3f} | {this.block_fraction:.3f} | {ratio:.3f} | {this.realised:.3f} |")
    print(
        f"\nmedian: engine / pipeline {median(r.overhead for r in taken):.3f} (at most 1.05), "
        f"promise kept {median(r.realised for r in taken):.3f} (at least 0.9)"
    )


def _pipeline(config: Config, device: torch.device) -> Callable[[], Any]:
    """The diffusers pipeline on the same work: encode the prompt and denoise."""
    pipeline = load_pipeline(config, device)
    sampling = config.sampling
    return lambda: pipeline(
        prompt=PROMPT,
        negative_prompt="",
        height=sampling.height,
        width=sampling.width,
        num_frames=sampling.frames,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        max_sequence_length=sampling.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="latent",
    )


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    run_script(main)
