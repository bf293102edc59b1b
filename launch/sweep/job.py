"""From the arguments of `lockstep sweep` to a checked job."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dicache.calibration.file import hash_prompt, read_calibration
from engine.checkpoints.match import FORMAT_KEY, must_match
from engine.checks.cache_choice import uses_calibration
from engine.checks.outputs import check_folder
from engine.checks.preflight import preflight
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.published import known_names, published_names
from engine.request import GenerationRequest, Outputs, Task
from launch.jobs.by_line import LineOptions, images_of, refuse_checkpoints, refuse_replicas, without_outputs
from launch.jobs.checked import check_work
from launch.jobs.config import JobConfig, load_job_config
from launch.sweep.curves import Curve, make_cache, read_curves
from launch.sweep.folder import SweepFolder
from parallel.place import Place


@dataclass(frozen=True)
class SweepOptions(LineOptions):
    """The arguments of `lockstep sweep`, without the number of ranks."""

    methods: str | None = None
    shares: str | None = None
    tune_prompts: int = 3


@dataclass(frozen=True)
class SweepJob:
    """A sweep that has passed all checks."""

    config: JobConfig
    given: JobConfig
    """As it was read."""
    requests: Sequence[GenerationRequest]
    curves: Sequence[Curve]
    shares: Sequence[float]
    """Shares of skipped steps to search settings for; if there are none, each knob takes its own values."""
    tune_prompts: int
    num_branches: int
    published: Sequence[str]
    folder: SweepFolder
    made_with: Mapping[str, Any]
    notes: Sequence[str] = ()

    @property
    def output(self) -> Path:
        """The folder of its results."""
        return self.folder.path

    @property
    def owned(self) -> Sequence[Path]:
        """All that it writes."""
        return [self.output]

    @property
    def inputs(self) -> Sequence[Path]:
        """The files that its ranks read."""
        caches = (setting.cache for curve in self.curves for setting in curve.ladder())
        calibrations = {Path(cache.calibration) for cache in caches if cache.calibration is not None}
        return [*images_of(self.requests), *calibrations]

    def settled(self, settle: Callable[[JobConfig, Sequence[Task]], JobConfig]) -> SweepJob:
        """The same for the ranks of another machine, with the configuration that ``settle`` makes."""
        return replace(self, config=settle(self.config, without_outputs(self.requests)))

    def writing_to(self, output: Path) -> SweepJob:
        """The same with its results in another folder."""
        return replace(self, folder=SweepFolder(output))


def prepare_sweep(options: SweepOptions, place: Place) -> SweepJob:
    """Check everything that can be checked before weights load or processes start.

    Args:
        place: of this process.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    notes: list[str] = []
    given = load_job_config(options.config, options.overrides, notes.append)
    refuse_checkpoints(given, "a sweep goes on by whole videos")
    tasks = options.tasks(given, Outputs())
    requests = [task.request for task in tasks]
    work = check_work(given.model_copy(update={"cache": make_cache("none", {"method": "none"})}), tasks, place)
    uncached, facts = work.config, work.checked.facts
    refuse_replicas(
        uncached,
        "a sweep makes one video after the other on all ranks, so that its seconds are those of one layout",
    )
    if options.tune_prompts < 1:
        raise InvalidInput(f"--tune-prompts is {options.tune_prompts}: use at least 1.")
    folder = SweepFolder(options.output)
    made_with = _made_with(uncached, requests[0])
    if place.acts_for_all:
        check_folder("--output", options.output, Path(uncached.model.path))
        folder.refuse_if_other(made_with)
    curves, left_out = _allowed(options, uncached.model_copy(update={"cache": given.cache}), tasks[:1], facts, place)
    published = published_names(facts, requests[0])
    _refuse_seen(curves, [request.prompts[0] for request in requests], published)
    return SweepJob(
        config=uncached,
        given=given,
        requests=requests,
        curves=curves,
        shares=tuple(_shares(options.shares)),
        tune_prompts=options.tune_prompts,
        num_branches=facts.num_branches(uncached.sampling.guidance),
        published=published,
        folder=folder,
        made_with=made_with,
        notes=[*notes, *work.checked.notes, *left_out],
    )


def _made_with(config: JobConfig, request: GenerationRequest) -> dict[str, Any]:
    """What all runs of one folder have to have in common, so that frames and seconds can be compared."""
    common = must_match(config, request)
    del common["cache"], common[FORMAT_KEY]
    common["request"] = {key: value for key, value in common["request"].items() if key not in ("prompts", "seed")}
    runtime = config.runtime.model_dump(mode="json", include={"device", "attention"})
    return common | {"layout": str(config.parallel.degrees), "runtime": runtime}


def _allowed(
    options: SweepOptions, config: JobConfig, tasks: Sequence[Task], facts: ModelFacts, place: Place
) -> tuple[list[Curve], list[str]]:
    """The curves whose settings this model can run, and a note on each curve that is left out.

    Raises:
        InvalidInput: a method that --methods names cannot run.
    """
    allowed: list[Curve] = []
    notes: list[str] = []
    for curve in read_curves(options.methods, config.cache, known_names(facts, tasks[0].request), notes.append):
        try:
            for setting in curve.ladder():
                preflight(config.model_copy(update={"cache": setting.cache}), tasks, replace(place, rank=None))
        except InvalidInput as error:
            if options.methods is not None:
                raise
            notes.append(f"{curve.name} is left out: {error}")
            continue
        allowed.append(curve)
    return allowed, notes


def _refuse_seen(curves: Sequence[Curve], prompts: Sequence[str], published: Sequence[str]) -> None:
    """Refuse prompts that a calibration was made from, on which it would look better than it is."""
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
