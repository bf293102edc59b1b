"""From the arguments of `lockstep bench` to a checked job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicache.config import CacheConfig
from engine.checkpoints.match import differences
from engine.checks.outputs import check_folder
from engine.errors import InvalidInput
from engine.execution.versions import describe_versions
from engine.request import GenerationRequest, Outputs, Task
from launch.bench.folder import BenchFolder
from launch.bench.options import BenchOptions
from launch.bench.records import VariantName
from launch.bench.turns.build import Build, find_build, this_build
from launch.jobs.by_line import images_of, refuse_checkpoints, refuse_replicas, without_outputs
from launch.jobs.checked import CheckedWork, check_work
from launch.jobs.config import JobConfig, load_job_config
from parallel.place import Place


@dataclass(frozen=True)
class Variant:
    """A configuration that makes the videos of every round, by turns with others."""

    name: VariantName
    config: JobConfig
    requests: Sequence[GenerationRequest]


@dataclass(frozen=True)
class OtherWork:
    """The same configuration in another build."""

    build: Build
    arguments: Sequence[str]
    """Of its `lockstep`, without those that name files of this one's folder."""


@dataclass(frozen=True)
class BenchJob:
    """Measurements that have passed all checks."""

    variants: Sequence[Variant]
    """The first is the configuration as given."""
    rounds: int
    warmup: int
    """Videos of each variant that every replica makes before the first round, uncounted."""
    trace: bool
    keep_videos: bool
    folder: BenchFolder
    given: JobConfig
    """As it was read."""
    made_with: Mapping[str, Any]
    notes: Sequence[str] = ()
    other: OtherWork | None = None
    """What takes turns with all variants."""

    @property
    def config(self) -> JobConfig:
        """The configuration as given, with nothing left open: what loads the model."""
        return self.variants[0].config

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
        caches = [variant.config.cache for variant in self.variants]
        files = {file for cache in caches for file in cache.files.values()}
        return [*images_of([request for variant in self.variants for request in variant.requests]), *sorted(files)]

    def settled(self, settle: Callable[[JobConfig, Sequence[Task]], JobConfig]) -> BenchJob:
        """The same for the ranks of another machine, with the configurations that ``settle`` makes."""

        def there(variant: Variant) -> Variant:
            return replace(variant, config=settle(variant.config, without_outputs(variant.requests)))

        return replace(self, variants=[there(variant) for variant in self.variants])

    def writing_to(self, output: Path) -> BenchJob:
        """The same with its results in another folder."""
        return replace(self, folder=BenchFolder(output))


def prepare_bench(options: BenchOptions, place: Place) -> BenchJob:
    """Check everything that can be checked before weights load or processes start.

    Args:
        place: of this process.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    if options.rounds < 1:
        raise InvalidInput(f"--rounds is {options.rounds}: measure at least 1 round.")
    if options.warmup < 0:
        raise InvalidInput(f"--warmup is {options.warmup}: use 0 or more videos.")
    if options.against is not None and options.against_build is not None:
        raise InvalidInput(
            f"--against is {options.against!r} and --against-build is {str(options.against_build)!r}, but one of them "
            "takes turns with this build: leave one out."
        )
    notes: list[str] = []
    folder = BenchFolder(options.output)
    given = _read(options.config, options.overrides, notes)
    if place.acts_for_all:
        check_folder("--output", options.output, Path(given.model.path))
        folder.refuse_if_finished()
    work = _check(given, options, place)
    notes += work.notes
    variants = [_variant("given", work)]
    if work.config.cache.method != "none" and not options.led:
        off = given.model_copy(update={"cache": CacheConfig(method="none")})
        variants.append(_variant("cache_off", _check(off, options, place)))
    if options.against is not None:
        other = _check(_read(options.against, (), notes), options, place)
        _refuse_unless_shared(options.against, work.config, other.config)
        variants.append(_variant("against", other))
    made_with = _made_with(variants, options)
    other_work = None
    if options.against_build is not None:
        other_work = _find_other(options, options.against_build, work.config)
        made_with["builds"] = {"given": this_build().described(), "against": other_work.build.described()}
    return BenchJob(
        variants,
        options.rounds,
        options.warmup,
        options.trace,
        options.keep_videos,
        folder,
        given,
        made_with,
        notes,
        other_work,
    )


def _read(file: str, overrides: Sequence[str], notes: list[str]) -> JobConfig:
    config = load_job_config(file, overrides, notes.append)
    refuse_checkpoints(config, "a bench measures without checkpoints", where=f" in {file}")
    # a wait for a disk would count as the time of a video
    runtime = config.runtime.model_copy(update={"wait_for_room_seconds": 0.0})
    return config.model_copy(update={"runtime": runtime})


def _check(config: JobConfig, options: BenchOptions, place: Place) -> CheckedWork:
    folder, tasks = BenchFolder(options.output), options.tasks(config)
    # as many videos as are on the disk at a time, which must have room for them
    stay = len(tasks) if options.keep_videos else config.parallel.data
    with_files = [
        replace(task, outputs=Outputs(folder.video(f"{index}", options.keep_videos))) if index < stay else task
        for index, task in enumerate(tasks)
    ]
    return check_work(config, with_files, place)


def _variant(name: VariantName, work: CheckedWork) -> Variant:
    return Variant(name, work.config, [task.request for task in work.tasks])


def _refuse_unless_shared(file: str, config: JobConfig, other: JobConfig) -> None:
    """Refuse a configuration that cannot run on the ranks and the model that another one has loaded."""

    def loaded(config: JobConfig) -> dict[str, Any]:
        runtime = config.runtime.model_dump(mode="json", include={"device", "attention"})
        return {
            "model": config.model.model_dump(mode="json"),
            "parallel": config.parallel.model_dump(mode="json"),
            "runtime": runtime,
        }

    if changed := differences(loaded(config), loaded(other)):
        raise InvalidInput(
            f"--against is {file!r}, which cannot run on the loaded model, for {changed[0]}: make them equal, or "
            "measure it by itself and use --compare."
        )


def _find_other(options: BenchOptions, folder: Path, config: JobConfig) -> OtherWork:
    refuse_replicas(config, "with --against-build all ranks of a build work, or none")
    return OtherWork(find_build(folder), options.of_other_build(config))


def _made_with(variants: Sequence[Variant], options: BenchOptions) -> dict[str, Any]:
    configs = {variant.name: variant.config.model_dump(mode="json") for variant in variants}
    requests = variants[0].requests
    return {
        "config": configs["given"],
        "against": configs.get("against"),
        "prompts": [request.prompts[0] for request in requests],
        "negative_prompt": options.negative_prompt,
        "rounds": options.rounds,
        "warmup": options.warmup,
        "versions": describe_versions(),
        "command": ["lockstep", *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
