"""`lockstep calibrate`: uncached runs of a few prompts, from which steps are placed and weights are fitted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dicache.calibration import Budget, Calibration, hash_prompt
from dicache.config import CacheConfig
from engine.checkpoints.match import calibrated_for, calibrated_request, content_hash
from engine.config import Config
from engine.config_file import load_config
from engine.errors import InvalidInput
from engine.files import StagedFiles
from engine.hub import resolve_model
from engine.imports import import_ahead
from engine.models.facts import read_facts
from engine.preflight import preflight
from engine.progress import Progress
from engine.request import GenerationRequest, read_prompts
from engine.task import Outputs, make_tasks
from engine.versions import describe_versions
from launch.signals import say
from parallel.degrees import Degrees

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHARES = tuple(percent / 100 for percent in range(30, 81, 5))  # of the steps, skipped


@dataclass(frozen=True)
class CalibrateOptions:
    """What was typed after `calibrate`, but for the number of ranks."""

    config: str
    prompts_file: Path
    output: Path
    overrides: Sequence[str] = field(default_factory=tuple)
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None

    def to_argv(self) -> list[str]:
        """Arguments that parse to these options again, whatever the values look like."""
        sets = [f"--set={override}" for override in self.overrides]
        asked = {"--negative-prompt": self.negative_prompt, "--image": self.image, "--last-image": self.last_image}
        given = [f"{name}={value}" for name, value in asked.items() if value]
        return [f"--prompts={self.prompts_file}", f"--output={self.output}", *given, *sets, "--", self.config]


@dataclass(frozen=True)
class CalibrateJob:
    """A calibration that has passed every check."""

    config: Config
    requests: Sequence[GenerationRequest]
    degrees: Degrees
    output: Path
    made_with: Mapping[str, Any]


def prepare_calibration(
    options: CalibrateOptions,
    ranks: int | None,
    local_ranks: int | None = None,
    rank: int | None = None,
    nodes: int | None = None,
) -> CalibrateJob:
    """Check everything before weights load or processes start; arguments as of ``launch.job.prepare``.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    config = resolve_model(load_config(options.config, options.overrides), lambda line: say(f"lockstep: {line}"))
    config = config.model_copy(update={"cache": CacheConfig(method="none")})
    tasks = [
        task
        for seed, prompt in enumerate(read_prompts(options.prompts_file))
        for task in make_tasks(
            [prompt],
            options.negative_prompt,
            [seed],
            config.sampling,
            Outputs(report=options.output),
            options.image,
            options.last_image,
        )
    ]
    degrees = preflight(config, tasks, ranks, local_ranks, rank, nodes).degrees
    if degrees.data > 1:
        raise InvalidInput(
            f"parallel.data is {degrees.data}, but a calibration runs one prompt after the other on all ranks: use 1."
        )
    if read_facts(config.model.path, config.model.single_files).boundary_timestep is not None:
        raise InvalidInput(
            f"model.path is {config.model.path}, which has two transformers, but a calibration is of one: "
            "use another method."
        )
    asked = {"request": calibrated_request(tasks[0].request)}
    made_with = json.loads(json.dumps(calibrated_for(config, config.sampling) | asked))
    return CalibrateJob(config, [task.request for task in tasks], degrees, options.output, made_with)


def run_calibration(job: CalibrateJob, progress: Progress, rank: int) -> Path | None:
    """Measure what is missing, place the steps, write the file. Collective: every rank calls it."""
    import_ahead("engine.engine")  # torch and diffusers, which takes seconds
    from engine.loaded import load_model
    from launch.velocities import measure_products
    from parallel.ranks import join, leave, pick_device

    kept = [_kept(job, request) for request in job.requests]  # before any rank can have written another
    progress.stage("join")
    ranks = join(job.degrees, pick_device(job.config.runtime.device), job.config.runtime.load_timeout_seconds)
    progress.stage("load")
    model = load_model(job.config, ranks)
    measured = []
    for index, (request, known) in enumerate(zip(job.requests, kept, strict=True)):
        if known is None:
            progress.video(index, len(job.requests))
            known = measure_products(model, request, progress)
            if rank == 0:
                _keep(job, request, known)
        measured.append(known)
    progress.stage("write")
    if rank == 0:
        _write(job, measured)
    progress.done()
    leave()
    return job.output if rank == 0 else None


def _write(job: CalibrateJob, measured: Sequence[Mapping[str, Any]]) -> None:
    import numpy as np

    from dicache.placement import growth, place_steps
    from engine.guidance import mixing

    one, num_steps = measured[0], len(measured[0]["sigmas"])
    branches = one["branches"]
    weights = mixing(job.config.sampling.guidance, len(branches))
    # what is placed is what the file says, so first as many digits as that has
    products = _rounded(np.mean([known["products"] for known in measured], axis=0))
    sizes = [taken * growth(sigma) for taken, sigma in zip(one["sampler"], one["sigmas"], strict=True)]
    by_step = products.reshape(num_steps, len(branches), num_steps, len(branches))
    placements = place_steps(by_step, weights, sizes)
    counts = dict.fromkeys(round(num_steps * (1 - share)) for share in _SHARES)
    budgets = [
        Budget(compute=placement.compute, damage=float(f"{placement.damage:.6g}"))
        for count in counts
        if (placement := placements.get(count)) is not None
    ]
    calibration = Calibration(
        made_with=dict(job.made_with),
        versions=describe_versions(),
        prompts=tuple(hash_prompt(request.prompts[0]) for request in job.requests),
        steps=num_steps,
        step_sizes=tuple(float(f"{size:.6g}") for size in sizes),
        branches=tuple(branches),
        mixing=weights,
        products=tuple(tuple(products[row, : row + 1].tolist()) for row in range(len(products))),
        budgets=tuple(budgets),
        **_of_other_methods(measured),
    )
    with StagedFiles() as files:
        files.stage(job.output).write_text(_readable(calibration), encoding="utf-8")
    shutil.rmtree(_folder(job), ignore_errors=True)


def _of_other_methods(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """MagCache's table and TeaCache's polynomials, measured as their authors do, over all prompts."""
    from dicache.measurements import fit_polynomial, mean_ratios

    ratios = {
        branch: tuple(round(ratio, 5) for ratio in means)
        for branch, means in mean_ratios([run["ratios"] for run in runs]).items()
    }
    points = {name: [point for run in runs for point in run["changes"][name]] for name in runs[0]["changes"]}
    return {"ratios": ratios, "polynomials": {name: fit_polynomial(found) for name, found in points.items() if found}}


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 10 digits: neighbouring velocities differ in the third or fourth."""
    import numpy as np

    return np.vectorize(lambda value: float(f"{value:.10g}"))(values)


def _readable(calibration: Calibration) -> str:
    """JSON with a line for each list of numbers."""
    return re.sub(r"(?<=[\d,\[\"])\s+(?=[-\d\]])", "", calibration.model_dump_json(indent=1)) + "\n"


def _folder(job: CalibrateJob) -> Path:
    """Of what has been measured, until the file is written."""
    return job.output.with_suffix(".partial")


def _kept(job: CalibrateJob, request: GenerationRequest) -> dict[str, Any] | None:
    try:
        found = json.loads((_folder(job) / f"{_name(request)}.json").read_text())
        return found if found["made_with"] == job.made_with and "ratios" in found else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(job: CalibrateJob, request: GenerationRequest, measured: Mapping[str, Any]) -> None:
    with StagedFiles() as files:
        text = json.dumps({**measured, "made_with": job.made_with})
        files.stage(_folder(job) / f"{_name(request)}.json").write_text(text)


def _name(request: GenerationRequest) -> str:
    images = [content_hash(path) for path in (request.image, request.last_image) if path]
    return "-".join([hash_prompt(request.prompts[0]), str(request.seed), *(str(image)[:16] for image in images)])


def print_calibration(path: Path, stdout: IO[str]) -> None:
    """Where the file is, and how to use it."""
    print(f"calibration  {path}", file=stdout)
    print(f"use it with  --set cache.method=calibrated --set cache.calibration={path}", file=stdout)
