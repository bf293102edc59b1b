"""The run report: everything about a run as one JSON file, ``"schema": 1`` (documented in docs/report.md)."""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicache.controller import Decision, Lane, Step
from engine.config import Config
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest
from parallel.degrees import Degrees
from parallel.weights import list_blocks

SCHEMA = 1


@dataclass
class StepLog:
    """One row per step and lane, in order."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step, timestep: float, decisions: dict[Lane, Decision]) -> None:
        """Write down what was decided at a step; the seconds are filled in at the end."""
        for lane, decision in decisions.items():
            self.rows.append(
                {
                    "step": step.index,
                    "timestep": timestep,
                    "sample": lane.sample,
                    "branch": lane.branch,
                    "action": decision.action,
                    "indicator": _number(decision.indicator),
                    "accumulated": _number(decision.accumulated),
                    "gamma": decision.gamma,
                    "seconds": None,
                }
            )

    def fill_seconds(self, seconds: dict[Any, float]) -> None:
        """Take the seconds of each (step, lane). A run that broke off on a GPU may not have known those of its last
        step yet."""
        for row in self.rows:
            row["seconds"] = seconds.get((row["step"], Lane(row["sample"], row["branch"])))

    @property
    def skipped(self) -> int:
        return sum(row["action"] == "skip" for row in self.rows)

    def block_fraction(self, num_blocks: int, probe_blocks: int) -> float:
        """Share of the blocks that were executed; 1 means that nothing was skipped."""
        every = num_blocks * len(self.rows)
        return (every - self.skipped * (num_blocks - probe_blocks)) / every


@dataclass
class RankUsage:
    """What one rank used during a request; the largest over the ranks is reported."""

    weight_bytes: int
    cache_bytes: int
    collective_bytes: dict[str, int]
    agreement_seconds: float
    peak_memory_bytes: int
    lane_seconds: dict[Any, float]

    @staticmethod
    def largest(usages: list["RankUsage"]) -> "RankUsage":
        """The largest of each number over the ranks."""
        kinds = sorted({kind for usage in usages for kind in usage.collective_bytes})
        return RankUsage(
            weight_bytes=max(usage.weight_bytes for usage in usages),
            cache_bytes=max(usage.cache_bytes for usage in usages),
            collective_bytes={kind: max(u.collective_bytes.get(kind, 0) for u in usages) for kind in kinds},
            agreement_seconds=max(usage.agreement_seconds for usage in usages),
            peak_memory_bytes=max(usage.peak_memory_bytes for usage in usages),
            lane_seconds=longest([usage.lane_seconds for usage in usages]),
        )


def longest(by_rank: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    """The largest of what ranks have measured, by key; a rank may have measured other keys than the next."""
    keys = {key for seconds in by_rank for key in seconds}
    return {key: max(seconds.get(key, 0.0) for seconds in by_rank) for key in keys}


def describe_request(
    config: Config, request: GenerationRequest, degrees: Degrees, dtypes: dict[str, str], shard_weights: bool
) -> dict[str, Any]:
    """The resolved values, under the names of the options and configuration keys."""
    prompts = request.prompts
    return {
        "prompt": prompts[0] if len(prompts) == 1 else list(prompts),
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "image": _text(request.image),
        "last_image": _text(request.last_image),
        "model": config.model.model_dump(mode="json") | dtypes,
        "sampling": request.sampling.model_dump(),
        "cache": config.cache.model_dump(mode="json"),
        "parallel": asdict(degrees) | {"shard_weights": shard_weights},
    }


def describe_model(
    facts: ModelFacts, transformers: Sequence[nn.Module], loras: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What was loaded: one transformer, or the experts, which are built alike, and what was added to their weights."""
    return {
        "pipeline": facts.pipeline,
        "blocks": facts.num_layers,
        "heads": facts.num_heads,
        "parameters": sum(parameter.numel() for t in transformers for parameter in t.parameters()),
        "boundary_timestep": facts.boundary_timestep,
        "dtype": block_dtype(transformers[0]),
        "loras": list(loras),
    }


def block_dtype(transformer: nn.Module) -> str:
    """The dtype of the blocks' arithmetic, "float32" or "bfloat16"."""
    return str(next(list_blocks(transformer)[0].parameters()).dtype).removeprefix("torch.")


def describe_device(device: torch.device) -> str:
    """A name a person recognises."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads a rank"


def describe_layout(degrees: Degrees) -> dict[str, int]:
    return asdict(degrees)


def latents_sha256(latents: Tensor) -> str:
    """Hash of the float32 bytes, [samples, channels, frames, height, width], row-major."""
    return hashlib.sha256(latents.float().cpu().numpy().tobytes()).hexdigest()


class FramesHash:
    """Hash of the uint8 frames [frames, height, width, 3] before video compression, row-major, as they pass."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def watch(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Hand the chunks on, one after the other."""
        for frames in chunks:
            self._sha256.update(frames.numpy().tobytes())
            yield frames

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON."""
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _number(value: float | None) -> float | None:
    """JSON has no infinity, which is what a change from nothing to something amounts to."""
    return value if value is None or math.isfinite(value) else sys.float_info.max
