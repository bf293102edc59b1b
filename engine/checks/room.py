"""Checks before weights load that the disks have room for what a run writes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.checkpoints.names import DONE
from engine.config import Config
from engine.cost.memory import CACHED_TENSORS
from engine.errors import NoRoom
from engine.models.facts import ModelFacts
from engine.models.folder import read_json
from engine.request import GenerationRequest, Outputs, Task
from engine.storage.disks import existing_folder, free_bytes, in_words
from parallel.degrees import Degrees

# H.264 as :mod:`engine.media.video` writes it takes a twentieth to a tenth of a byte for each pixel of a film, and 0.96
# of noise
_VIDEO_BYTES_PER_PIXEL = 0.25
_LATENT_BYTES = 4  # float32
_REPORT_BYTES_PER_STEP = 400  # a row of the report for each lane
_SMALL_FILES_BYTES = 1 << 16  # job, configuration, the rest of a report
# of a checkpoint before the last: the latents, and what a multistep sampler remembers of them
_SAMPLER_TENSORS = 5
_KEPT = 3  # checkpoints: the newest two, and the one that is being written


def output_bytes(request: GenerationRequest, outputs: Outputs, facts: ModelFacts) -> int:
    """About what the videos, the latents and the report of a request take."""
    sampling = request.sampling
    size = report = math.ceil(len(request.prompts) * sampling.steps * 2 * _REPORT_BYTES_PER_STEP) + _SMALL_FILES_BYTES
    if outputs.video:
        pixels = sampling.frames * sampling.height * sampling.width
        size += math.ceil(len(request.prompts) * pixels * _VIDEO_BYTES_PER_PIXEL)
    if outputs.latents:
        size += latents_bytes(request, facts)
    return size + (report if outputs.checkpoint else 0)


def latents_bytes(request: GenerationRequest, facts: ModelFacts) -> int:
    """What the final latents of all samples take."""
    sampling = request.sampling
    shape = facts.latents_shape(sampling.frames, sampling.height, sampling.width)
    return len(request.prompts) * math.prod(shape) * _LATENT_BYTES


def checkpoints_bytes(config: Config, request: GenerationRequest, facts: ModelFacts) -> int:
    """About the most that the checkpoints of one request take at a time, with the final latents."""
    latents = latents_bytes(request, facts)
    every, steps = config.checkpoint.every, request.sampling.steps
    count = min(_KEPT, (steps - 1) // every) if every else 0
    cached = 0
    if config.cache.method != "none":
        branches = facts.num_branches(request.sampling.guidance)
        cached = CACHED_TENSORS * len(request.prompts) * branches * _token_bytes(config, request, facts)
    return latents + count * (_SAMPLER_TENSORS * latents + cached)


def _token_bytes(config: Config, request: GenerationRequest, facts: ModelFacts) -> int:
    """Of one tensor [tokens, dim]."""
    sampling = request.sampling
    tokens = math.prod(facts.token_grid(sampling.frames, sampling.height, sampling.width))
    transformer = read_json(Path(config.model.path) / "transformer" / "config.json")
    wide = config.model.dtype == "float32" or (config.model.dtype == "auto" and config.runtime.device == "cpu")
    return tokens * facts.num_heads * int(transformer.get("attention_head_dim", 128)) * (4 if wide else 2)


def check_room(config: Config, tasks: Sequence[Task], facts: ModelFacts, degrees: Degrees) -> None:
    """Refuse a run for whose files a disk has no room. All that is written to one file system is added up: files of all
    videos that are not made yet, and the checkpoints of those that are made at a time, less what the run has left there
    before.

    Raises:
        NoRoom: one sentence with how much it needs, and how much is free.
    """
    needed: dict[int, int] = {}  # by file system
    folders: dict[int, Path] = {}

    def need(path: Path, size: int) -> None:
        path = Path(os.path.realpath(path))  # a link is written through
        folder = existing_folder(path)
        try:
            device = os.stat(folder).st_dev
        except OSError:
            return  # it is away now, which the check of outputs says
        needed[device] = needed.get(device, 0) + size
        folders.setdefault(device, path.parent)

    left = [task for task in tasks if not _is_done(task.outputs)]
    for task in left:
        outputs = task.outputs
        for path in outputs.written[:1]:
            need(path, output_bytes(task.request, replace(outputs, latents=None), facts))
        if outputs.latents:
            need(outputs.latents, latents_bytes(task.request, facts))
    for task in left[: degrees.data]:
        if task.outputs.checkpoint:
            size = checkpoints_bytes(config, task.request, facts)
            need(task.outputs.checkpoint, max(0, size - _bytes_below(task.outputs.checkpoint)))
    for device, size in needed.items():
        folder = folders[device]
        free = free_bytes(folder)
        if free is not None and free < size:
            raise NoRoom(
                f"This run needs about {in_words(size)} in {folder}, but only {in_words(free)} are free there: make "
                "room, or choose another --output."
            )


def _is_done(outputs: Outputs) -> bool:
    return outputs.checkpoint is not None and (outputs.checkpoint / DONE).is_file()


def _bytes_below(folder: Path) -> int:
    """Of all files in a folder, if there is one."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(above, name)).st_size
    return total
