"""The folder of a sweep: one small file for each video that was measured, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dicache.config import CacheConfig
from engine.checkpoints.match import describe_cache, differences
from engine.errors import InvalidInput
from engine.request import GenerationRequest
from engine.storage.files import StagedFiles, save_tensors

_MADE_WITH = "made_with.json"


@dataclass(frozen=True)
class Run:
    """The measurements of one prompt with one setting. PSNR and SSIM compare with the uncached video of the same prompt
    and seed."""

    steps_skipped: float
    """Share of the denoise steps of all guidance branches."""
    blocks_computed: float
    """Share of the transformer blocks that ran, probes included."""
    denoise_seconds: float
    cache_bytes: int
    """On the rank with the largest cache."""
    psnr: float
    """Decibels."""
    ssim: float


@dataclass(frozen=True)
class SweepFolder:
    """Measured runs and uncached frames of one sweep. Only the first rank reads and writes it."""

    path: Path

    def refuse_if_other(self, made_with: Mapping[str, Any]) -> None:
        """
        Raises:
            InvalidInput: the runs here were made with another model, sampling, layout or version.
        """
        try:
            before = json.loads((self.path / _MADE_WITH).read_text())
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            raise InvalidInput(
                f"--output is {str(self.path)!r}, whose {_MADE_WITH} cannot be read: give another folder."
            ) from None
        if changed := differences(before, json.loads(json.dumps(made_with))):
            raise InvalidInput(
                f"--output is {str(self.path)!r}, which holds a sweep that cannot be compared, for {changed[0]}: bring "
                "that back, or give another folder."
            )

    def begin(self, made_with: Mapping[str, Any]) -> None:
        """Write what all runs in this folder are made with: model, sampling, layout and versions."""
        self.write(_MADE_WITH, json.dumps(made_with, indent=1))

    def run(self, cache: CacheConfig, request: GenerationRequest) -> Run | None:
        """The measurements of a run; None if it has not been made."""
        try:
            return Run(**json.loads(self._run_file(cache, request).read_text()))
        except (OSError, ValueError, TypeError):
            return None  # no file yet, or a damaged one: the run is made again

    def keep_run(self, cache: CacheConfig, request: GenerationRequest, run: Run) -> None:
        """Write the measurements of a run."""
        with StagedFiles() as files:
            files.stage(self._run_file(cache, request)).write_text(json.dumps(asdict(run)))

    def reference(self, request: GenerationRequest) -> Tensor | None:
        """Frames of the uncached video, uint8 [frames, height, width, 3]; None if it has not been made."""
        try:
            return load_file(self._reference_file(request))["frames"]
        except (OSError, ValueError, KeyError, RuntimeError):
            return None
        except Exception as error:  # safetensors' own error, which it exports under no stable name
            if type(error).__name__ == "SafetensorError":
                return None
            raise

    def keep_reference(self, request: GenerationRequest, frames: Tensor) -> None:
        """Write the frames of the uncached video, uint8 [frames, height, width, 3]."""
        with StagedFiles() as files:
            save_tensors({"frames": frames}, files.stage(self._reference_file(request)))

    def write(self, name: str, text: str) -> None:
        """Write a text file."""
        with StagedFiles() as files:
            files.stage(self.path / name).write_text(text, encoding="utf-8")

    def _run_file(self, cache: CacheConfig, request: GenerationRequest) -> Path:
        return self.path / "runs" / _key(describe_cache(cache)) / f"{_request_key(request)}.json"

    def _reference_file(self, request: GenerationRequest) -> Path:
        return self.path / "references" / f"{_request_key(request)}.safetensors"


def _request_key(request: GenerationRequest) -> str:
    return _key({"prompts": request.prompts, "seed": request.seed})


def _key(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
