"""The run report: everything about a run as one JSON file, ``"schema": 1`` (documented in docs/report.md)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.components.dtypes import resolved_dtypes
from engine.components.quantising.described import count_numbers, describe_quantised
from engine.execution.loaded import LoadedModel
from engine.execution.versions import describe_versions
from engine.generation.metrics import RankUsage
from engine.generation.step_log import StepLog
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest

SCHEMA = 1


def describe_request(model: LoadedModel, request: GenerationRequest) -> dict[str, Any]:
    """The resolved values of the request, under the names of the options and configuration keys."""
    prompts, config = request.prompts, model.config
    return {
        "prompt": prompts[0] if len(prompts) == 1 else list(prompts),
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "image": _text(request.image),
        "last_image": _text(request.last_image),
        "model": config.model.model_dump(mode="json") | resolved_dtypes(config, model.ranks.device, model.facts.family),
        "sampling": request.sampling.model_dump(),
        "cache": config.cache.model_dump(mode="json"),
        "parallel": asdict(model.ranks.degrees) | {"shard_weights": model.experts[0].weights is not None},
    }


def describe_run(model: LoadedModel) -> dict[str, Any]:
    """What the request ran on: the model, versions, device and layout."""
    degrees = model.ranks.degrees
    transformers = [expert.adapter.transformer for expert in model.experts]
    return {
        "model": describe_model(model.facts, transformers, model.loras),
        "versions": describe_versions(),
        "device": describe_device(model.ranks.device),
        "attention": model.attention_kernel,
        "world_size": degrees.world_size,
        "layout": asdict(degrees),
    }


def describe_model(
    facts: ModelFacts, transformers: Sequence[nn.Module], loras: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What was loaded: one transformer, or two experts of one architecture, and the LoRAs added to their weights."""
    return {
        "pipeline": facts.pipeline,
        "blocks": facts.num_layers,
        "heads": facts.num_heads,
        "parameters": count_numbers(transformers),
        "boundary_timestep": facts.boundary_timestep,
        "dtype": block_dtype(transformers[0]),
        "quantised": describe_quantised(transformers),
        "loras": list(loras),
    }


def describe_totals(steps: StepLog, block_fraction: float, usage: RankUsage) -> dict[str, Any]:
    """Sums over all steps and lanes, and the largest use of any rank."""
    return {
        "computed": len(steps.rows) - steps.skipped,
        "skipped": steps.skipped,
        "block_fraction": block_fraction,
        "weight_bytes_per_rank": usage.weight_bytes,
        "cache_bytes_per_rank": usage.cache_bytes,
        "collective_bytes_per_rank": sum(usage.collective_bytes.values()),
        "collective_bytes_by_kind": usage.collective_bytes,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "agreement_seconds": usage.agreement_seconds,
    }


def describe_output(latents: Tensor, videos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Hashes of what was made, and where the videos are; path and frames_sha256 are those of the first one."""
    first = videos[0] if videos else {"path": None, "frames_sha256": None}
    return {
        "path": first["path"],
        "latents_sha256": latents_sha256(latents),
        "frames_sha256": first["frames_sha256"],
        "videos": list(videos),
    }


def block_dtype(transformer: nn.Module) -> str:
    """The dtype of the blocks' arithmetic, "float32" or "bfloat16"."""
    return str(transformer.dtype).removeprefix("torch.")


def describe_device(device: torch.device) -> str:
    """The GPU's name, or how many threads a rank has on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads a rank"


def latents_sha256(latents: Tensor) -> str:
    """Hash of the float32 bytes, [samples, channels, frames, height, width], row-major."""
    return hashlib.sha256(latents.float().cpu().numpy().tobytes()).hexdigest()


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
