"""From the arguments of `lockstep bench --mlperf` to a checked job."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dicache.config import CacheConfig
from engine.checks.outputs import check_folder
from engine.checks.preflight import preflight
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts, read_facts
from engine.models.hub import resolve_model
from engine.request import GenerationRequest, Outputs, Task, make_tasks, read_prompts
from launch.bench.folder import BenchFolder
from launch.jobs.by_line import images_of, refuse_checkpoints, refuse_replicas, without_outputs
from launch.jobs.checked import announce, check_work
from launch.jobs.config import JobConfig, load_job_config
from launch.mlperf.latent import read_latent
from launch.mlperf.loadgen import require_loadgen
from launch.mlperf.standard import (
    NEGATIVE_PROMPT,
    PROMPTS,
    SEED,
    Scenario,
    departures,
    fewest_queries,
    standard_sampling,
)
from launch.sweep.curves import make_cache
from parallel.place import Place

if TYPE_CHECKING:
    from torch import Tensor

CACHE_OFF, CACHE_ON = "cache_off", "cache_on"
"""The two runs: the standard's closed division forbids to cache what is made of activations, its open one does not."""
DOCUMENT, TABLE = "mlperf.json", "mlperf.md"
_LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class MlperfOptions:
    """The arguments of `lockstep bench --mlperf`, without the number of ranks."""

    config: str
    scenario: Scenario
    prompts_file: Path | None
    output: Path
    overrides: Sequence[str] = ()
    latent: Path | None = None


@dataclass(frozen=True)
class MlperfJob:
    """A test that has passed all checks."""

    config: JobConfig
    """With the cache off, as the model is loaded."""
    scenario: Scenario
    requests: Sequence[GenerationRequest]
    """One of each prompt."""
    caches: Mapping[str, CacheConfig]
    """By the name of the run, in their order."""
    noise: Tensor | None
    folder: Path
    departures: Sequence[str]
    given: JobConfig
    """As it was read."""
    command: Sequence[str]
    """As it was typed."""
    notes: Sequence[str] = ()

    @property
    def output(self) -> Path:
        """The folder of its results."""
        return self.folder

    @property
    def owned(self) -> Sequence[Path]:
        """All that it writes."""
        return [self.folder]

    @property
    def inputs(self) -> Sequence[Path]:
        """The files that its ranks read."""
        files = {file for cache in self.caches.values() for file in cache.files.values()}
        return [*images_of(self.requests), *sorted(files)]

    def settled(self, settle: Callable[[JobConfig, Sequence[Task]], JobConfig]) -> MlperfJob:
        """The same for the ranks of another machine, with the configuration that ``settle`` makes."""
        return replace(self, config=settle(self.config, without_outputs(self.requests)))

    def writing_to(self, output: Path) -> MlperfJob:
        """The same with its results in another folder."""
        return replace(self, folder=output)

    @property
    def accuracy(self) -> bool:
        """Whether videos are made to be scored; else time is measured."""
        return self.config.mlperf.mode == "accuracy"

    @property
    def queries(self) -> int:
        """The fewest queries of SingleStream, or samples of Offline."""
        return fewest_queries(self.config, self.scenario, len(self.requests))

    @property
    def performance_samples(self) -> int:
        """How many prompts a performance run draws from."""
        return min(PROMPTS, len(self.requests))

    def log_folder(self, cache: str) -> Path:
        """Where LoadGen writes the logs of one run."""
        return self.folder / cache

    def video_path(self, cache: str, prompt: int) -> Path:
        """The video of a prompt in an accuracy run, under the name by which VBench finds it."""
        return self.folder / "videos" / cache / f"{video_name(self.requests[prompt].prompts[0])}-0.mp4"

    def latents_path(self, cache: str, prompt: int) -> Path:
        """The latents of a prompt, until the two runs are compared."""
        return self._latents / cache / f"{prompt:05d}.safetensors"

    def remove_latents(self) -> None:
        """Once they are compared. To be called by whoever has kept some: not all need have one disk."""
        shutil.rmtree(self._latents, ignore_errors=True)

    @property
    def _latents(self) -> Path:
        return self.folder / "latents"


def video_name(prompt: str) -> str:
    """A prompt as a file name: as it is, as VBench has it, unless no file system takes that."""
    name = prompt.replace("/", "_")
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return name
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    return f"{encoded[:_LONGEST_NAME_BYTES].decode(errors='ignore')}-{digest}"


def prepare_mlperf(options: MlperfOptions, place: Place) -> MlperfJob:
    """Check everything that can be checked before weights load or processes start.

    Args:
        place: of this process.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    if place.acts_for_all:
        require_loadgen()
    notes: list[str] = []
    read = load_job_config(options.config, options.overrides, notes.append)
    refuse_checkpoints(read, "a benchmark keeps none")
    if options.prompts_file is None:
        raise InvalidInput(
            "--mlperf needs prompts: give a text file with one on each line with --prompts; the standard's "
            f"{PROMPTS} are text_to_video/wan-2.2-t2v-a14b/data/vbench_prompts.txt of github.com/mlcommons/inference."
        )
    prompts = read_prompts(options.prompts_file)
    found = resolve_model(read, announce)
    facts = read_facts(found.model.path, found.model.single_files)
    given = found.model_copy(update={"sampling": standard_sampling(read.sampling, facts, options.overrides)})
    if (
        options.scenario is Scenario.OFFLINE
        and given.parallel.is_auto
        and "goal" not in given.parallel.model_fields_set
    ):
        given = given.model_copy(update={"parallel": given.parallel.model_copy(update={"goal": "throughput"})})
    negative_prompt = "" if facts.guidance_distilled else NEGATIVE_PROMPT
    tasks = make_tasks(prompts, negative_prompt, [SEED], given.sampling, Outputs())
    off = make_cache("none", {"method": "none"})
    work = check_work(given.model_copy(update={"cache": off}), tasks, place)
    config = work.config
    if options.scenario is Scenario.SINGLE_STREAM:
        refuse_replicas(config, "SingleStream makes one video after the other on all ranks")
    caches = {CACHE_OFF: off}
    if given.cache.method == "none":
        notes.append("cache.method is none, so there is only the number with the cache off")
    else:
        _check_cached(config.model_copy(update={"cache": given.cache}), tasks, place)
        caches[CACHE_ON] = given.cache
    noise = None
    if options.latent is not None:
        sampling = config.sampling
        noise = read_latent(options.latent, facts.latents_shape(sampling.frames, sampling.height, sampling.width))
    if place.acts_for_all:
        _check_output(options.output, config)
        _refuse_twins(config, prompts)
    return MlperfJob(
        config=config,
        scenario=options.scenario,
        requests=[task.request for task in tasks],
        caches=caches,
        noise=noise,
        folder=options.output,
        departures=list(departures(config, facts, options.scenario, len(prompts), noise is not None)),
        given=read,
        command=["lockstep", *sys.argv[1:]],
        notes=[*notes, *work.notes, *_changes(read, config, facts)],
    )


def _check_cached(config: JobConfig, tasks: Sequence[Task], place: Place) -> None:
    """Refuse a cache that cannot run, before the run without it has taken its hours."""
    preflight(config, tasks, replace(place, rank=None))


def _check_output(folder: Path, config: JobConfig) -> None:
    check_folder("--output", folder, Path(config.model.path))
    BenchFolder(folder).refuse_if_finished()
    if (folder / DOCUMENT).exists():
        raise InvalidInput(
            f"--output is {str(folder)!r}, which holds the results of an earlier test: give another folder."
        )


def _refuse_twins(config: JobConfig, prompts: Sequence[str]) -> None:
    """In an accuracy run two equal prompts would share one video file."""
    if config.mlperf.mode != "accuracy":
        return
    names = [video_name(prompt) for prompt in prompts]
    if twin := next((prompt for i, prompt in enumerate(prompts) if names[i] in names[:i]), None):
        raise InvalidInput(f"--prompts has {twin!r} twice, or one like it: leave one out of an accuracy run.")


def _changes(read: JobConfig, config: JobConfig, facts: ModelFacts) -> list[str]:
    """What of the configuration's sampling the standard replaces."""
    before, after = read.sampling.model_dump(), config.sampling.model_dump()
    changed = [f"{key} {_text(before[key])} → {_text(after[key])}" for key in after if after[key] != before[key]]
    return [f"sampling as MLPerf has it: {', '.join(changed)}"] if changed else []


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
