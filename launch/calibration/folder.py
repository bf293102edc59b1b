"""What a calibration has measured so far, until its file is written: one that broke off goes on prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicache.calibration import hash_prompt
from engine.checkpoints.match import content_hash
from engine.files import StagedFiles
from engine.request import GenerationRequest
from launch.calibration.job import CalibrateJob


def folder_of(job: CalibrateJob) -> Path:
    """Of what has been measured, until the file is written."""
    return job.output.with_suffix(".partial")


def kept(job: CalibrateJob, request: GenerationRequest) -> dict[str, Any] | None:
    try:
        found = json.loads((folder_of(job) / f"{_name(request)}.json").read_text())
        return found if found["made_with"] == job.made_with and "ratios" in found else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(job: CalibrateJob, request: GenerationRequest, measured: Mapping[str, Any]) -> None:
    with StagedFiles() as files:
        text = json.dumps({**measured, "made_with": job.made_with})
        files.stage(folder_of(job) / f"{_name(request)}.json").write_text(text)


def _name(request: GenerationRequest) -> str:
    images = [content_hash(path) for path in (request.image, request.last_image) if path]
    return "-".join([hash_prompt(request.prompts[0]), str(request.seed), *(str(image)[:16] for image in images)])
