"""What two runs must have in common so that one can continue the other's checkpoint and make the same video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dicache.config import CacheConfig
from engine.checkpoints import shard_file
from engine.checkpoints.names import newest_first
from engine.config import Config, ModelConfig, SamplingConfig
from engine.execution.versions import describe_versions
from engine.models.fingerprint import fingerprint
from engine.request import GenerationRequest

FORMAT = 2
"""Version of a checkpoint's files, increased whenever files of an older version cannot be read."""
FORMAT_KEY = "checkpoint format"
"""The key of :data:`FORMAT` in :func:`must_match`; the first version had none."""

_NEWER_KEYS = ("quantize", "vae_tiling", "vae_channels_last")
"""Keys of the model section that are left out at their default, so that checkpoints and calibrations go on that are
older."""


def must_match(config: Config, request: GenerationRequest, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values that must be equal, by section, as plain JSON values; needs no torch.

    Args:
        model: what :func:`describe_model` has returned, for a caller that asks about many requests.

    Raises:
        OSError: a file of the model, or an image, cannot be read.
    """
    return {
        "model": model or describe_model(config.model),
        "request": request.model_dump(mode="json", exclude={"image", "last_image"})
        | {"image": content_hash(request.image), "last_image": content_hash(request.last_image)},
        "cache": describe_cache(config.cache),
        "versions": describe_versions(),
        FORMAT_KEY: FORMAT,
    }


def job_fingerprint(config: Config, request: GenerationRequest, model: Mapping[str, Any] | None = None) -> str:
    """SHA-256 of what a video is made from: the model's files, the request and the cache section; not the versions of
    packages, so a video that is finished stays so after an upgrade. Arguments as of :func:`must_match`.

    Raises:
        OSError: a file of the model, or an image, cannot be read.
    """
    values = must_match(config, request, model)
    made_from = {name: values[name] for name in ("model", "request", "cache")}
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def describe_cache(cache: CacheConfig) -> dict[str, Any]:
    """The cache section, with hashes of its files in place of their names."""
    files = {"replay": content_hash(cache.replay), "calibration": content_hash(cache.calibration)}
    return cache.model_dump(mode="json") | files


def calibrated_for(config: Config, sampling: SamplingConfig) -> dict[str, Any]:
    """What a calibration is valid for: the model, and how it is sampled. Images may change, and their background."""
    sampled = sampling.model_dump(mode="json", exclude={"fps", "background"})
    return {"model": describe_model(config.model), "sampling": sampled}


def calibrated_request(request: GenerationRequest) -> dict[str, Any]:
    """What a calibration is valid for beside :func:`calibrated_for`. Prompts and images may change; the negative prompt
    and the presence of an image may not. Without guidance the negative prompt is not used, and may change."""
    guided = max(request.sampling.guidance, request.sampling.low_noise_guidance or 0.0) > 1
    return {
        "negative_prompt": request.negative_prompt.strip() if guided else "",
        "image": request.image is not None,
        "last_image": request.last_image is not None,
    }


def written_under(folders: Sequence[Path]) -> dict[str, Any] | None:
    """What the newest checkpoint in the folders of a video was written under, as of :func:`must_match`; None without a
    readable one."""
    files = next(filter(None, map(shard_file.find, newest_first(folders))), None)
    if files is None:
        return None
    try:
        conditions: dict[str, Any] = shard_file.read_plain(files[0])["must_match"]
    except (OSError, ValueError, KeyError):
        return None  # damaged: the run itself finds out, and takes an older one
    conditions.pop("device kind", None)  # known to the ranks alone
    return conditions


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The values that differ, each as "sampling.steps was 50 and is 30"."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def describe_model(model: ModelConfig) -> dict[str, Any]:
    """The model section, with hashes of its files in place of their names.

    Raises:
        OSError: a file cannot be read.
    """
    settings = model.model_dump(mode="json", exclude={"path"})
    for lora in settings["loras"]:
        settings_beside = Path(lora["path"]).with_name("adapter_config.json")  # peft's; a folder's hash has them
        lora["settings"] = content_hash(settings_beside) if settings_beside.is_file() else None
        lora["path"] = fingerprint(lora["path"])
    for name in _NEWER_KEYS:
        if settings[name] == ModelConfig.model_fields[name].default:
            del settings[name]
    files = {name: fingerprint(path) for name, path in model.single_files.items()}
    return settings | {"files": fingerprint(model.path), "single_files": files}


def content_hash(path: Path | None) -> str | None:
    """SHA-256 of a file's content; None without a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
