"""The command; see the package."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.request import Outputs, Task, make_request, read_prompts
from engine.storage.files import StagedFiles
from launch.benchmarks.peers.contestant import Contestant
from launch.benchmarks.peers.counting import WorkCount
from launch.benchmarks.peers.engines import Ours
from launch.benchmarks.peers.entries import SHIPPED, Entry, read_entries
from launch.benchmarks.peers.pipelines import Hooked, Pipeline, Prompts
from launch.benchmarks.peers.rows import curves, make_rows, to_document, to_markdown
from launch.benchmarks.peers.turns import Turns
from launch.benchmarks.script import run_script
from launch.jobs.config import load_job_config
from launch.sweep.picture import draw_curves
from parallel.place import Place

_PACKAGES = ("lockstep-video", "torch", "diffusers", "cache-dit")


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
    with_cache_dit = any(entry.library == "cache-dit" for entry in entries)
    if with_cache_dit and find_spec("cache_dit") is None:
        raise InvalidInput(
            "cache-dit is not installed: `pip install 'lockstep-video[bench]'`, or leave its methods out."
        )
    captions = read_prompts(prompt_file)[:prompts]
    config = load_job_config(config_file, ["cache.method=none"])
    requests = [make_request([caption], "", seed, config.sampling) for seed, caption in enumerate(captions)]
    config = preflight(config, [Task(request, Outputs()) for request in requests], Place(1)).config
    facts = read_facts(config.model.path)
    if facts.pipeline != "WanPipeline" or facts.boundary_timestep is not None or config.sampling.scheduler != "unipc":
        raise InvalidInput(
            f"CONFIG is {str(config_file)!r}, of a {facts.pipeline} with the sampler {config.sampling.scheduler}: "
            "use a Wan text-to-video model with one transformer, and unipc."
        )
    engine = Engine.load(config)
    count = WorkCount(engine.model.adapter.transformer)
    common = Prompts.of(config, captions, engine.model.ranks.device)
    calibration = load_job_config(config_file).cache.calibration
    ratios = None if calibration is None else read_calibration(calibration).ratios.get("cond")

    def contestant(entry: Entry) -> Contestant:
        if entry.library == "lockstep":
            return Ours(engine, requests, count, config_file, entry)
        if entry.library == "cache-dit":
            from launch.benchmarks.peers.db_cache import DBCache  # the extra may be missing

            return DBCache(common, entry)
        return Hooked(common, entry, ratios)

    def decode(latents: Tensor) -> Tensor:
        frames = engine.decode(latents[0])
        assert frames is not None, "one rank is the first"
        return frames

    plain = Pipeline(common)
    uncached = Entry(name="none", library="lockstep", always={"method": "none"}, settings=[{}], several_ranks="")
    references = {"diffusers": plain, "cache-dit": plain, "lockstep": contestant(uncached)}
    references["lockstep"].set_up({})
    turns = Turns(plain, [(entry, contestant(entry)) for entry in entries], references)

    def write() -> str:
        """Write what there is by now; returns the tables."""
        done = captions[: len(turns.uncached["lockstep"])]
        pairs = [[made[i].latents for made in turns.uncached.values()] for i in range(len(done))]
        apart = max(float((ours - theirs).abs().max() / theirs.abs().max()) for theirs, _, ours in pairs)
        about = _made_with(config, engine.model.ranks.device, threads, rounds, apart, time.time() - started)
        rows = make_rows(turns.outcomes)
        table = to_markdown(turns.outcomes, rows, _heading(about, done))
        document = to_document(turns.outcomes, rows, about, done)
        picture = draw_curves(curves(rows), "denoise time over that of diffusers without a cache")
        with StagedFiles() as files:
            files.stage(output / "peers.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
            files.stage(output / "peers.md").write_text(table, encoding="utf-8")
            files.stage(output / "peers.svg").write_text(picture, encoding="utf-8")
        return table

    output.mkdir(parents=True, exist_ok=True)
    turns.run(len(captions), rounds, decode, lambda line: typer.echo(line, err=True), write)
    typer.echo(write())


def _made_with(
    config: Config, device: torch.device, threads: int, rounds: int, apart: float, seconds: float
) -> dict[str, Any]:
    return {
        "model": Path(config.model.path).name,
        "sampling": config.sampling.model_dump(mode="json"),
        "versions": {name: number for name in _PACKAGES if (number := _version(name))},
        "machine": f"{platform.processor() or platform.machine()}, {device.type}, threads {threads}",
        "date": time.strftime("%Y-%m-%d"),
        "rounds": rounds,
        "uncached_engine_from_pipeline": apart,
        "seconds": round(seconds),
    }


def _apart(largest: float) -> str:
    if largest == 0:
        return "are the plain pipeline's, bit for bit"
    return f"are within {largest:.1g} of the plain pipeline's, relative to the largest"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _heading(about: dict[str, Any], captions: Sequence[str]) -> str:
    sampling = about["sampling"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{len(captions)} prompts, rounds {about['rounds']}, {sampling['frames']} frames of {sampling['width']} × "
        f"{sampling['height']}, {sampling['steps']} {sampling['scheduler']} steps, shift {sampling['shift']:g}, "
        f"guidance {sampling['guidance']:g}; {versions}; {about['machine']}; {about['date']}.\n\n"
        f"Without a cache the engine's latents {_apart(about['uncached_engine_from_pipeline'])}."
    )


if __name__ == "__main__":
    run_script(main)
