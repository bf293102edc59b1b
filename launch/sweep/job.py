"""From what was typed after `sweep` to work that is known to make sense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicache.calibration.file import hash_prompt, read_calibration
from engine.checkpoints.match import must_match
from engine.checks.cache_choice import uses_calibration
from engine.checks.outputs import check_folder
from engine.checks.preflight import preflight
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.models.hub import resolve_model
from engine.models.published import known_names, published_names
from engine.request import GenerationRequest, Outputs, Task, make_tasks, read_prompts
from launch.jobs.config import load_job_config
from launch.process.signals import say
from launch.sweep.curves import Curve, make_cache, read_curves
from launch.sweep.folder import SweepFolder
from parallel.degrees import Degrees


@dataclass(frozen=True)
class SweepOptions:
    """What was typed after `sweep`, but for the number of ranks."""

    config: str
    prompts_file: Path
    output: Path
    methods: str | None = None
    shares: str | None = None
    tune_prompts: int = 3
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None
    overrides: Sequence[str] = field(default_factory=tuple)

    def to_argv(self) -> list[str]:
        """Arguments that parse to these options again, whatever the values look like."""
        files = {"--methods": self.methods, "--shares": self.shares, "--image": self.image}
        files |= {"--last-image": self.last_image}
        return [
            f"--prompts={self.prompts_file}",
            f"--output={self.output}",
            f"--tune-prompts={self.tune_prompts}",
            f"--negative-prompt={self.negative_prompt}",
            *(f"{name}={value}" for name, value in files.items() if value is not None),
            *(f"--set={override}" for override in self.overrides),
            "--",
            self.config,
        ]


@dataclass(frozen=True)
class SweepJob:
    """A sweep that has passed every check."""

    config: Config
    requests: Sequence[GenerationRequest]
    curves: Sequence[Curve]
    shares: Sequence[float]
    """Of the steps, to be skipped; none to go through the knobs' own values."""
    tune_prompts: int
    degrees: Degrees
    num_branches: int
    published: Sequence[str]
    folder: SweepFolder
    made_with: Mapping[str, Any]
    notes: Sequence[str] = ()


def prepare_sweep(
    options: SweepOptions,
    ranks: int | None,
    local_ranks: int | None = None,
    rank: int | None = None,
    nodes: int | None = None,
) -> SweepJob:
    """Check everything that can be checked before weights load or processes start; arguments as of ``prepare``.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    config = resolve_model(load_job_config(options.config, options.overrides), lambda line: say(f"lockstep: {line}"))
    if config.checkpoint.every:
        raise InvalidInput(
            f"checkpoint.every is {config.checkpoint.every}, but a sweep goes on by whole videos: leave it out."
        )
    prompts = read_prompts(options.prompts_file)
    tasks = _tasks(options, prompts, config)
    requests = [task.request for task in tasks]
    uncached = config.model_copy(update={"cache": make_cache("none", {"method": "none"})})
    degrees = preflight(uncached, tasks, ranks, local_ranks, rank, nodes).degrees
    if degrees.data > 1:
        raise InvalidInput(
            f"parallel.data is {degrees.data}, but a sweep makes one video after the other on all ranks, so that its "
            "seconds are those of one layout: use 1."
        )
    if options.tune_prompts < 1:
        raise InvalidInput(f"--tune-prompts is {options.tune_prompts}: use at least 1.")
    folder = SweepFolder(options.output)
    facts = read_facts(config.model.path, config.model.single_files)
    made_with = _made_with(uncached, requests[0], degrees)
    if rank in (None, 0):
        check_folder("--output", options.output, Path(config.model.path))
        folder.refuse_if_other(made_with)
    curves, notes = _allowed(options, config, tasks[:1], ranks, local_ranks, nodes)
    published = published_names(facts, requests[0])
    _refuse_seen(curves, prompts, published)
    return SweepJob(
        config=uncached,
        requests=requests,
        curves=curves,
        shares=tuple(_shares(options.shares)),
        tune_prompts=options.tune_prompts,
        degrees=degrees,
        num_branches=facts.num_branches(config.sampling.guidance),
        published=published,
        folder=folder,
        made_with=made_with,
        notes=notes,
    )


def _tasks(options: SweepOptions, prompts: Sequence[str], config: Config) -> list[Task]:
    """The prompt's place in the file is its seed."""
    return [
        task
        for seed, prompt in enumerate(prompts)
        for task in make_tasks(
            [prompt], options.negative_prompt, [seed], config.sampling, Outputs(), options.image, options.last_image
        )
    ]


def _made_with(config: Config, request: GenerationRequest, degrees: Degrees) -> dict[str, Any]:
    """What all runs of one folder have in common: without it neither frames nor seconds could be compared."""
    common = must_match(config, request)
    del common["cache"]
    common["request"] = {key: value for key, value in common["request"].items() if key not in ("prompts", "seed")}
    runtime = config.runtime.model_dump(mode="json", include={"device", "attention"})
    return common | {"layout": str(degrees), "runtime": runtime}


def _allowed(
    options: SweepOptions,
    config: Config,
    tasks: Sequence[Task],
    ranks: int | None,
    local_ranks: int | None,
    nodes: int | None,
) -> tuple[list[Curve], list[str]]:
    """The curves, each of whose settings this model can run; of all methods those that it can."""
    allowed, notes = [], []
    facts = read_facts(config.model.path, config.model.single_files)
    for curve in read_curves(options.methods, config.cache, known_names(facts, tasks[0].request)):
        try:
            for setting in curve.ladder():
                # as a rank would: what a launcher checks besides has been checked
                preflight(config.model_copy(update={"cache": setting.cache}), tasks, ranks, local_ranks, None, nodes)
        except InvalidInput as error:
            if options.methods is not None:
                raise
            notes.append(f"{curve.name} is left out: {error}")
            continue
        allowed.append(curve)
    return allowed, notes


def _refuse_seen(curves: Sequence[Curve], prompts: Sequence[str], published: Sequence[str]) -> None:
    """A calibration shines on the prompts that it was made from."""
    for curve in curves:
        cache = curve.ladder()[0].cache
        if cache.calibration is None or not uses_calibration(cache, published):
            continue
        seen = read_calibration(cache.calibration).prompts
        if prompt := next((prompt for prompt in prompts if hash_prompt(prompt) in seen), None):
            raise InvalidInput(
                f"--prompts has {prompt!r}, which the calibration {str(cache.calibration)!r} was made from: compare on "
                "other prompts."
            )


def _shares(text: str | None) -> Iterator[float]:
    for word in text.split(",") if text else ():
        try:
            percent = float(word)
        except ValueError:
            percent = math.nan
        if not 0 < percent < 100:
            raise InvalidInput(f"--shares names {word!r}, which is no share of steps in percent: write 50,60,70.")
        yield percent / 100
