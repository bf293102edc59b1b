"""Runs diffusers' Wan pipeline under cache-dit, in a process of its own: importing cache-dit patches diffusers'
attention, and enabling it patches the pipeline's class.

python -m tests.support.cache_dit_runs RUNS.json FOLDER reads a list of :class:`Run` and writes, for each, the final
latents and how many times each block ran, to FOLDER.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """One request under DBCache. ``first`` and ``last`` are cache-dit's Fn and Bn; -1 is no limit, as it has it."""

    model: str
    first: int
    last: int
    threshold: float
    warmup: int
    max_cached: int = -1
    max_continuous: int = -1
    steps: int = 14
    frames: int = 5
    height: int = 48
    width: int = 112
    shift: float = 3.0
    guidance: float = 5.0
    max_sequence_length: int = 512
    prompt: str = ""
    seed: int = 5


@dataclass(frozen=True)
class Ran:
    """latents: final ones, [1, channels, frames, height, width]. blocks: of each call of the transformer, cond and
    uncond in turn, how many times each block ran."""

    latents: Tensor
    blocks: list[list[int]]


def under_cache_dit(runs: list[Run], folder: Path) -> list[Ran]:
    """All runs, in one other process."""
    (folder / "runs.json").write_text(json.dumps([asdict(run) for run in runs]))
    command = [sys.executable, "-m", "tests.support.cache_dit_runs", str(folder / "runs.json"), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        Ran(load_file(folder / f"{i}.safetensors")["latents"], json.loads((folder / f"{i}.json").read_text()))
        for i in range(len(runs))
    ]


def main(runs: Path, folder: Path) -> None:
    """Run and write."""
    torch.set_num_threads(1)
    for number, values in enumerate(json.loads(runs.read_text())):
        ran = run_one(Run(**values))
        save_file({"latents": ran.latents.contiguous()}, folder / f"{number}.safetensors")
        (folder / f"{number}.json").write_text(json.dumps(ran.blocks))


def run_one(run: Run) -> Ran:
    """The pipeline's own loop, in float32 on the CPU."""
    import cache_dit
    from diffusers import UniPCMultistepScheduler, WanPipeline

    pipeline = WanPipeline.from_pretrained(run.model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=run.shift)
    blocks: list[list[int]] = []
    originals = list(pipeline.transformer.blocks)
    for index, block in enumerate(originals):
        block.register_forward_pre_hook(lambda *_, index=index: blocks[-1].__setitem__(index, blocks[-1][index] + 1))
    pipeline.transformer.patch_embedding.register_forward_pre_hook(lambda *_: blocks.append([0] * len(originals)))
    cache_dit.enable_cache(
        pipeline,
        cache_config=cache_dit.DBCacheConfig(
            Fn_compute_blocks=run.first,
            Bn_compute_blocks=run.last,
            residual_diff_threshold=run.threshold,
            max_warmup_steps=run.warmup,
            max_cached_steps=run.max_cached,
            max_continuous_cached_steps=run.max_continuous,
        ),
    )
    latents: Tensor = pipeline(
        run.prompt,
        negative_prompt="",
        height=run.height,
        width=run.width,
        num_frames=run.frames,
        num_inference_steps=run.steps,
        guidance_scale=run.guidance,
        max_sequence_length=run.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(run.seed),
        output_type="latent",
    ).frames
    cache_dit.disable_cache(pipeline)
    return Ran(latents, blocks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
