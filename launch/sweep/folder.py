"""What a sweep has measured so far: small files by what was run, so that nothing is made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dicache.config import CacheConfig
from engine.checkpoints.match import describe_cache, differences
from engine.errors import InvalidInput
from engine.files import StagedFiles
from engine.request import GenerationRequest

_MADE_WITH = "made_with.json"


@dataclass(frozen=True)
class Run:
    """One prompt with one setting. PSNR and SSIM are against the uncached run of the same prompt and seed."""

    steps_skipped: float
    """Share of the denoise steps, over all guidance branches."""
    blocks_computed: float
    """Share of the transformer blocks that ran, probes included."""
    denoise_seconds: float
    cache_bytes: int
    """On the rank that kept most."""
    psnr: float
    ssim: float


@dataclass(frozen=True)
class SweepFolder:
    """One sweep's. Only the first rank of the job looks at it."""

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
        """Say what all runs here are made with."""
        self.write(_MADE_WITH, json.dumps(made_with, indent=1))

    def run(self, cache: CacheConfig, request: GenerationRequest) -> Run | None:
        """What was measured, if it was."""
        try:
            return Run(**json.loads(self._run_file(cache, request).read_text()))
        except (OSError, ValueError, TypeError):
            return None  # not made yet, or damaged: made again

    def keep_run(self, cache: CacheConfig, request: GenerationRequest, run: Run) -> None:
        with StagedFiles() as files:
            files.stage(self._run_file(cache, request)).write_text(json.dumps(asdict(run)))

    def reference(self, request: GenerationRequest) -> Tensor | None:
        """Frames of the uncached run, uint8 [frames, height, width, 3], if it was made."""
        try:
            return load_file(self._reference_file(request))["frames"]
        except (OSError, ValueError, KeyError, RuntimeError):
            return None
        except Exception as error:  # safetensors' own error, which it exports under no stable name
            if type(error).__name__ == "SafetensorError":
                return None
            raise

    def keep_reference(self, request: GenerationRequest, frames: Tensor) -> None:
        with StagedFiles() as files:
            save_file({"frames": frames.contiguous()}, files.stage(self._reference_file(request)))

    def write(self, name: str, text: str) -> None:
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
