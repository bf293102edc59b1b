"""The command; see the package."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from dicache.calibration.file import read_calibration
from engine.checks.preflight import preflight
from engine.config import Config
from engine.engine import Engine
from engine.request import Outputs, Task, make_request
from engine.storage.files import StagedFiles
from launch.benchmarks.peers.contestant import Contestant
from launch.benchmarks.peers.counting import WorkCount
from launch.benchmarks.peers.db_cache import DBCache
from launch.benchmarks.peers.engines import Ours
from launch.benchmarks.peers.entries import SHIPPED, Entry, read_entries
from launch.benchmarks.peers.pipelines import Hooked, Pipeline, Prompts
from launch.benchmarks.peers.rows import curves, make_rows, to_document, to_markdown
from launch.benchmarks.peers.turns import Turns
from launch.jobs.config import load_job_config
from launch.sweep.picture import draw_curves
from parallel.place import Place


def main(
    config_file: Annotated[Path, typer.Argument(help="A configuration of a Wan text-to-video model, with unipc.")],
    prompt_file: Annotated[Path, typer.Argument(help="Prompts, one a line; the line number is the seed.")],
    output: Annotated[Path, typer.Option(help="A folder for peers.json, peers.md and peers.svg.")],
    prompts: Annotated[int, typer.Option(min=1, help="How many of the prompts to use.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Videos of each setting and prompt; times are their median.")] = 1,
    methods: Annotated[Path, typer.Option(help="A YAML file with the methods and their settings.")] = SHIPPED,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
) -> None:
    """Run all methods by turns; write their figures, a table and a picture."""
    started = time.time()
    torch.set_num_threads(threads)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    entries = read_entries(methods)
    captions = prompt_file.read_text(encoding="utf-8").splitlines()[:prompts]
    config = load_job_config(config_file, ["cache.method=none"])
    requests = [make_request([caption], "", seed, config.sampling) for seed, caption in enumerate(captions)]
    config = preflight(config, [Task(request, Outputs()) for request in requests], Place(1)).config
    engine = Engine.load(config)
    count = WorkCount(engine.model.adapter.transformer)
    common = Prompts.of(config, captions, engine.model.ranks.device)
    calibration = load_job_config(config_file).cache.calibration
    ratios = None if calibration is None else read_calibration(calibration).ratios.get("cond")

    def contestant(entry: Entry) -> Contestant:
        if entry.library == "lockstep":
            return Ours(engine, requests, count, config_file, entry)
        return DBCache(common, entry) if entry.library == "cache-dit" else Hooked(common, entry, ratios)

    def decode(latents: Tensor) -> Tensor:
        frames = engine.decode(latents[0])
        assert frames is not None, "one rank is the first"
        return frames

    plain = Pipeline(common)
    uncached = Entry(name="none", library="lockstep", always={"method": "none"}, settings=[{}], several_ranks="")
    references = {"diffusers": plain, "cache-dit": plain, "lockstep": contestant(uncached)}
    references["lockstep"].set_up({})
    turns = Turns(plain, [(entry, contestant(entry)) for entry in entries], references)
    made = turns.run(len(captions), rounds, decode, lambda line: typer.echo(line, err=True))

    pairs = [(made["lockstep"][i].latents, made["diffusers"][i].latents) for i in range(len(captions))]
    apart = max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)
    about = _made_with(config, engine.model.ranks.device, threads, rounds, apart, time.time() - started)
    rows = make_rows(turns.outcomes)
    table = to_markdown(turns.outcomes, rows, _heading(about, captions))
    document = to_document(turns.outcomes, rows, about, captions)
    output.mkdir(parents=True, exist_ok=True)
    with StagedFiles() as files:
        files.stage(output / "peers.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        files.stage(output / "peers.md").write_text(table, encoding="utf-8")
        files.stage(output / "peers.svg").write_text(
            draw_curves(curves(rows), "denoise time over that of diffusers without a cache"), encoding="utf-8"
        )
    typer.echo(table)


def _made_with(
    config: Config, device: torch.device, threads: int, rounds: int, apart: float, seconds: float
) -> dict[str, Any]:
    return {
        "model": Path(config.model.path).name,
        "sampling": config.sampling.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("lockstep-video", "torch", "diffusers", "cache-dit")},
        "machine": f"{platform.processor() or platform.machine()}, {device.type}, threads {threads}",
        "date": time.strftime("%Y-%m-%d"),
        "rounds": rounds,
        "uncached_engine_from_pipeline": apart,
        "seconds": round(seconds),
    }


def _heading(about: dict[str, Any], captions: Sequence[str]) -> str:
    sampling = about["sampling"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{len(captions)} prompts, rounds {about['rounds']}, {sampling['frames']} frames of {sampling['width']} × "
        f"{sampling['height']}, {sampling['steps']} {sampling['scheduler']} steps, shift {sampling['shift']:g}, "
        f"guidance {sampling['guidance']:g}; {versions}; {about['machine']}; {about['date']}.\n\n"
        f"Without a cache the engine's latents are within {about['uncached_engine_from_pipeline']:.1g} of the plain "
        "pipeline's, relative to the largest."
    )


if __name__ == "__main__":
    typer.run(main)
