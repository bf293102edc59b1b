"""What can be known about a model from its small JSON files, before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import InvalidInput
from engine.models.families import FAMILIES, Family

_WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "transformer_2": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "image_encoder": "model",
}
_TOKENIZERS = ("tokenizer.json", "spiece.model", "vocab.json")
_GIT_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model, read from its configuration files."""

    pipeline: str
    family: Family
    num_heads: int
    num_layers: int
    patch_size: tuple[int, int, int]  # latent frames, rows, columns in one token
    latent_channels: int
    vae_scale_spatial: int  # pixels per latent row or column
    vae_scale_temporal: int  # frames per latent frame, after the first
    rope_max_seq_len: int | None  # positions along each axis of the token grid; None for any number
    guidance_distilled: bool  # the guidance scale is an input of the transformer, so that one branch is enough
    boundary_timestep: float | None = None  # where the second of two transformers takes over; None with one
    # an image is refused, wanted as channels beside the latents, or welcome as the first latent frame (TI2V)
    image_input: Literal["none", "channels", "first frame"] = "none"
    clip_images: int = 0  # pictures that the transformer wants as CLIP sees them: none, the first, or first and last

    def num_branches(self, guidance: float) -> int:
        """Guidance branches that a step computes with that scale."""
        return 1 if self.guidance_distilled or guidance <= 1 else 2

    def latents_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of the latents of a video of that many frames and pixels."""
        return (
            self.latent_channels,
            (frames - 1) // self.vae_scale_temporal + 1,
            height // self.vae_scale_spatial,
            width // self.vae_scale_spatial,
        )

    @property
    def transformers(self) -> tuple[str, ...]:
        """Folders of the transformers, the one for high noise first."""
        return ("transformer",) if self.boundary_timestep is None else ("transformer", "transformer_2")

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens along time, rows and columns for a video of that many frames and pixels."""
        latent = self.latents_shape(frames, height, width)[1:]
        t, h, w = (size // patch for size, patch in zip(latent, self.patch_size, strict=True))
        return t, h, w


def read_facts(model_path: str | Path) -> ModelFacts:
    """Read ``model_index.json`` and the configurations of transformer and VAE, and look at what lies beside them.

    Raises:
        InvalidInput: the folder, a file or a weight file is missing or damaged, or the model is of a
            kind that Lockstep does not run.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        raise InvalidInput(f"There is no model folder {folder}: download the model there, or correct model.path.")
    index = _read_json(folder / "model_index.json")
    family = _family(index, folder)
    transformer = _read_json(folder / "transformer" / "config.json")
    vae = _read_json(folder / "vae" / "config.json")
    for component in family.text_encoders:
        _read_json(folder / component / "config.json")
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    for component in family.tokenizers:
        if not any((folder / component / name).is_file() for name in _TOKENIZERS):
            raise InvalidInput(f"{folder / component} holds no tokenizer.json: download the model again.")
    try:
        in_channels = int(transformer.get("in_channels", 16))
        facts = ModelFacts(
            pipeline=index["_class_name"],
            family=family,
            **family.read_sizes(transformer, vae),
            boundary_timestep=_boundary_timestep(index, scheduler),
            image_input=_image_input(index),
            clip_images=_clip_images(transformer),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"The configuration files in {folder} lack or garble {error}: download the model again."
        ) from None
    if facts.boundary_timestep is not None:
        _check_alike(transformer, _read_json(folder / "transformer_2" / "config.json"), folder)
    _check_needs(transformer, facts, folder)
    _check_channels(in_channels, facts, folder)
    clip = ["image_encoder"] if facts.clip_images else []
    if clip:
        _read_json(folder / "image_encoder" / "config.json")
        _read_json(folder / "image_processor" / "preprocessor_config.json")
    for component in (*facts.transformers, "vae", *family.text_encoders, *clip):
        for file in weight_files(folder, component):
            _check_weight_file(file)
    return facts


def _family(index: dict[str, Any], folder: Path) -> Family:
    pipeline = index.get("_class_name")
    family = FAMILIES.get(pipeline) if isinstance(pipeline, str) else None
    if family is None:
        raise InvalidInput(f"{folder} is a {pipeline}, which Lockstep does not run: use one of {', '.join(FAMILIES)}.")
    return family


def _boundary_timestep(index: dict[str, Any], scheduler: dict[str, Any]) -> float | None:
    """Some single models name a boundary all the same, and without one diffusers ignores a second transformer."""
    ratio = index.get("boundary_ratio")
    if ratio is None or not any(index.get("transformer_2") or ()):
        return None
    return float(ratio) * int(scheduler.get("num_train_timesteps", 1000))


def _image_input(index: dict[str, Any]) -> Literal["none", "channels", "first frame"]:
    """TI2V 5B is published as a WanPipeline: what tells it apart is that its tokens have timesteps of their own."""
    if index.get("expand_timesteps"):
        return "first frame"
    return "channels" if index["_class_name"] == "WanImageToVideoPipeline" else "none"


def _clip_images(transformer: dict[str, Any]) -> int:
    if transformer.get("image_dim") is None:
        return 0
    return 1 if transformer.get("pos_embed_seq_len") is None else 2


def _check_needs(transformer: dict[str, Any], facts: ModelFacts, folder: Path) -> None:
    for key, needed in facts.family.needs:
        if transformer.get(key) != needed:
            raise InvalidInput(
                f"The transformer in {folder} has {key} {transformer.get(key)}, but that of a {facts.pipeline} has "
                f"{needed}, so this is a kind of model that Lockstep does not run: use another."
            )


def _check_channels(in_channels: int, facts: ModelFacts, folder: Path) -> None:
    given = facts.latent_channels
    if facts.image_input == "channels":
        given += facts.vae_scale_temporal + facts.latent_channels  # the mask of given frames, and their latents
    if in_channels != given:
        raise InvalidInput(
            f"The transformer in {folder} takes {in_channels} channels, but as a {facts.pipeline} it would be given "
            f"{given}, so this is a kind of model that Lockstep does not run: use another."
        )


def _check_alike(first: dict[str, Any], second: dict[str, Any], folder: Path) -> None:
    keys = {key for key in first.keys() | second.keys() if not key.startswith("_")}  # those tell where it was made
    differing = sorted(key for key in keys if first.get(key) != second.get(key))
    if differing:
        raise InvalidInput(
            f"The two transformers of {folder} differ in {', '.join(differing)}, so one cannot continue what the "
            "other began: download the model again."
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(
            f"{file} is missing, so this is no model in the diffusers layout: download it, or correct model.path."
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file} cannot be read ({error}): download the model again.") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{file} holds no settings: download the model again.")
    return content


def weight_files(model_path: str | Path, component: str) -> Iterator[Path]:
    """The safetensors files of "transformer", "vae", "text_encoder" and so on: one, or those that its index lists."""
    folder, stem = Path(model_path) / component, _WEIGHTS[component]
    shards = folder / f"{stem}.safetensors.index.json"
    if shards.is_file():
        names = _read_json(shards).get("weight_map", {}).values()
        yield from (folder / name for name in sorted(set(names)))
    else:
        yield folder / f"{stem}.safetensors"


def _check_weight_file(file: Path) -> None:
    """Refuse a weight file that is absent, a Git LFS pointer or cut short; reads only its header."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_GIT_LFS))
            if start == _GIT_LFS:
                raise InvalidInput(f"{file} is only a Git LFS pointer: fetch the weights with git lfs pull.")
            header_bytes = int.from_bytes(start[:8], "little")
            size = file.stat().st_size
            if 8 + header_bytes <= size:
                stream.seek(8)
                tensors = json.loads(stream.read(header_bytes))
                ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
                if 8 + header_bytes + max(ends, default=0) == size:
                    return
    except FileNotFoundError:
        raise InvalidInput(f"The weights {file} are missing: download the model again.") from None
    except InvalidInput:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InvalidInput(f"The weights {file} cannot be read ({error}): download the model again.") from None
    raise InvalidInput(f"The weights {file} are cut short or damaged: download the model again.")
