"""The folder in which a calibration keeps its measurements until its file is written, so that an interrupted one can go
on with the next prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dicache.calibration.file import Calibration, hash_prompt
from engine.checkpoints.match import content_hash
from engine.request import GenerationRequest
from engine.storage.files import StagedFiles, save_tensors
from launch.calibration.job import CalibrateJob


def kept(job: CalibrateJob, request: GenerationRequest) -> dict[str, Any] | None:
    """The measurements of a prompt's uncached run; None if it has not been made."""
    try:
        latents_of(job, request)
        found = json.loads((job.partial / f"{_name(request)}.json").read_text())
        return found if found["made_with"] == job.made_with and "ratios" in found else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def keep(job: CalibrateJob, request: GenerationRequest, measured: Mapping[str, Any], latents: Tensor) -> None:
    """Write the measurements of a prompt's uncached run, and its final latents.

    Args:
        latents: float32 [samples, channels, frames, height, width], on the CPU.
    """
    with StagedFiles() as files:
        save_tensors({"latents": latents}, files.stage(job.partial / f"{_name(request)}.safetensors"))
        text = json.dumps({**measured, "made_with": job.made_with})
        files.stage(job.partial / f"{_name(request)}.json").write_text(text)


def latents_of(job: CalibrateJob, request: GenerationRequest) -> Tensor:
    """The final latents of a prompt's uncached run, float32 [samples, channels, frames, height, width]."""
    return load_file(job.partial / f"{_name(request)}.safetensors")["latents"]


def trials_file(job: CalibrateJob, calibration: Calibration) -> Path:
    """The file with the errors of trial runs; its name depends on the weights."""
    weights = hashlib.sha256(json.dumps([calibration.products, calibration.made_with]).encode()).hexdigest()
    return job.partial / f"trials-{weights[:16]}.json"


def _name(request: GenerationRequest) -> str:
    images = [content_hash(path) for path in (request.image, request.last_image) if path]
    return "-".join([hash_prompt(request.prompts[0]), str(request.seed), *(str(image)[:16] for image in images)])
