"""The tag of a video: what it was made from, as JSON in the comment of the file (docs/report.md has the keys).

No path, host or user is in it: files are named by their hashes, and a model by its folder's name or its id on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from dicache.config import CacheConfig
from engine.checkpoints.match import content_hash, describe_cache, describe_model
from engine.config import HUB_ID, Config, ModelConfig, RuntimeConfig, SamplingConfig, Section
from engine.errors import first_problem
from engine.execution.versions import describe_versions
from engine.request import GenerationRequest, make_request

SCHEMA = 1
"""Raised by a change that a reader of this version would misread."""
_FORMAT = "lockstep video"
_OF_MODEL = ("dtype", "text_encoder_dtype", "vae_dtype", "vae_tiling", "vae_channels_last", "quantize")
_OF_RUNTIME = ("attention", "compile", "deterministic", "tf32")
"""Keys that change the numbers; the others of these sections are about files, the machine and limits."""
_FILES = ("files", "single_files", "loras")
"""Of :func:`describe_model`, what tells two models apart."""

Hash = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


@dataclass(frozen=True)
class Done:
    """What is known once the final latents are there."""

    actions: Sequence[str]
    """Of each step; "skip" where all of it was estimated."""
    block_fraction: float
    latents_sha256: str
    noise_is_given: bool = False
    """The noise was not the seed's."""


def tag_text(
    config: Config,
    request: GenerationRequest,
    done: Done,
    sample: int = 0,
    model: Mapping[str, Any] | None = None,
) -> str | None:
    """The tag of one video; None where ``runtime.metadata`` is off.

    Args:
        config: as the engine has it, with nothing left open.
        sample: the video's place among those of the request.
        model: what :func:`describe_model` has returned, for a caller that asks about several videos.

    Raises:
        OSError: a file of the model, or an image, cannot be read.
    """
    if not config.runtime.metadata:
        return None
    model, skipped = model or describe_model(config.model), list(done.actions).count("skip")
    return _to_text(
        {
            "format": _FORMAT,
            "schema": SCHEMA,
            "request": {
                "prompt": request.prompts[sample],
                "negative_prompt": request.negative_prompt,
                "seed": request.seed,
                "noise": "given" if done.noise_is_given else "of the seed",
                "sample": sample,
                "samples": len(request.prompts),
                "image": content_hash(request.image),
                "last_image": content_hash(request.last_image),
                "model": config.model.model_dump(mode="json", include=set(_OF_MODEL)),
                "sampling": request.sampling.model_dump(mode="json"),
                "cache": _without_paths(config.cache),
                "runtime": config.runtime.model_dump(mode="json", include=set(_OF_RUNTIME)),
            },
            "model": {"name": model_name(config.model.path)} | {key: model[key] for key in _FILES},
            "versions": describe_versions(),
            "steps": {
                "computed": len(done.actions) - skipped,
                "skipped": skipped,
                "block_fraction": done.block_fraction,
            },
            "latents_sha256": done.latents_sha256,
        }
    )


def model_name(path: str) -> str:
    """A model's id on the hub, with its revision if that is known, or the name of its folder.

    Args:
        path: as ``model.path`` has it: a folder, also one in the hub's cache, or an id.
    """
    if HUB_ID.fullmatch(path) and not Path(path).exists():
        return path
    *_, repository, kind, revision = ("", "", "", *Path(path).parts)
    if kind == "snapshots" and repository.startswith("models--"):
        return f"{repository.removeprefix('models--').replace('--', '/', 1)}@{revision}"
    return Path(path).name


def _without_paths(cache: CacheConfig) -> dict[str, Any]:
    section = describe_cache(cache)
    for key, path in cache.files.items():
        if section.get("chosen"):  # says why, and may quote a file
            section["chosen"] = section["chosen"].replace(str(path), f"cache.{key}")
    return section


def _to_text(values: Mapping[str, Any]) -> str:
    """JSON in one line in which every character has a shape: programs print comments as they are, and a prompt may hold
    what moves the cursor of a terminal."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


class LaterSchema(Exception):
    """A tag is of a schema, the argument, that this version does not know."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Head(_Part):
    format: Literal["lockstep video"]
    version: int = Field(alias="schema", ge=1)


class TaggedRequest(_Part):
    """What was asked for. Of files there are hashes."""

    prompt: str
    negative_prompt: str
    seed: int
    noise: Literal["of the seed", "given"]
    sample: int
    samples: int
    image: Hash | None
    last_image: Hash | None
    model: dict[str, JsonValue]
    """Keys of the section that change the numbers, and so of ``runtime``."""
    sampling: SamplingConfig
    cache: CacheConfig
    """With hashes in place of files."""
    runtime: dict[str, JsonValue]

    @field_validator("model")
    @classmethod
    def _of_the_model(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return _checked(value, ModelConfig, _OF_MODEL, {"path": "-"})

    @field_validator("runtime")
    @classmethod
    def _of_the_runtime(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return _checked(value, RuntimeConfig, _OF_RUNTIME, {})

    @field_validator("cache")
    @classmethod
    def _names_no_path(cls, cache: CacheConfig) -> CacheConfig:
        for key, path in cache.files.items():
            if not (len(str(path)) == 64 and set(str(path)) <= set("0123456789abcdef")):
                raise ValueError(f"cache.{key} is {str(path)!r:.80}, but should be a hash")
        return cache


def _checked(
    value: dict[str, JsonValue], section: type[Section], keys: Sequence[str], rest: Mapping[str, str]
) -> dict[str, JsonValue]:
    """The value, if it has keys of a section, of those that a tag has, with values that they may have.

    Args:
        rest: keys that the section cannot do without.
    """
    if unknown := [key for key in value if key not in keys]:
        raise ValueError(f"{unknown[0]!r} does not belong there")
    try:
        section.model_validate({**rest, **value})
    except ValidationError as error:
        raise ValueError(first_problem(error)[1]) from None
    return value


class TaggedModel(_Part):
    """What was loaded: hashes as of :func:`engine.models.fingerprint.fingerprint`."""

    name: str
    files: Hash
    single_files: dict[str, Hash]
    loras: tuple[dict[str, JsonValue], ...]

    def differs_in(self, model: ModelConfig) -> list[str]:
        """What of it differs from a model that is here: "files", "single_files", "loras".

        Raises:
            OSError: a file of that cannot be read.
        """
        then, here = self.model_dump(mode="json"), describe_model(model)
        return [key for key in _FILES if then[key] != here[key]]


class TaggedSteps(_Part):
    """Denoise steps, and the share of the blocks that was executed."""

    computed: int
    skipped: int
    block_fraction: float


class Tag(_Part):
    """The tag of a video, checked: its values are such as a user may give."""

    request: TaggedRequest
    model: TaggedModel
    versions: dict[str, str]
    steps: TaggedSteps
    latents_sha256: Hash


def parse_tag(text: str) -> Tag | None:
    """The tag in a file's comment; None where that is another program's.

    Raises:
        LaterSchema: a later version has written it.
        ValueError: it is damaged; the message says in which value.
    """
    if f'"{_FORMAT}"' not in text[:100]:
        return None
    try:
        if (version := _Head.model_validate_json(text).version) > SCHEMA:
            raise LaterSchema(version)
        tag = Tag.model_validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        # without a place it is about the whole text: no JSON
        raise ValueError(first_problem(error)[1] if problem["loc"] else problem["msg"]) from None
    request = tag.request
    make_request([request.prompt], request.negative_prompt, request.seed, request.sampling)  # has limits of its own
    return tag
