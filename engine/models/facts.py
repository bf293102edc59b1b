"""Sizes and properties of a model, read from its JSON files without a weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import InvalidInput, MachineUnfit
from engine.models.families import FAMILIES, Family
from engine.models.folder import check_chat_template, check_class, check_tokenizer, read_json
from engine.models.samplers import NOISE_LEVELS, check_sampler
from engine.models.sizes import check_latents, check_widths
from engine.models.vocabulary import check_vocabulary
from engine.models.weights import check_weights


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
    # an image is refused, required as channels beside the latents, or possible as the first latent frame (TI2V)
    image_input: Literal["none", "channels", "first frame"] = "none"
    clip_images: int = (
        0  # CLIP image embeddings that the transformer takes: none, of the first image, or first and last
    )
    dropped_frames: int = 0  # frames that are removed from the start of a decoded video

    @property
    def needs_image(self) -> bool:
        """Whether a request without an image is refused."""
        return self.image_input == "channels" or self.family.needs_image

    def num_branches(self, guidance: float) -> int:
        """Guidance branches that a step computes with that guidance scale, 1 or 2."""
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

    @property
    def components(self) -> tuple[str, ...]:
        """Folders of everything that has weights, transformers first."""
        images = ("image_encoder",) if self.image_processor else ()
        return (*self.transformers, "vae", *self.family.text_encoders, *images)

    @property
    def image_processor(self) -> str | None:
        """The folder of the image processor of the image encoder; None where the model has none."""
        if self.clip_images:
            return "image_processor"
        return self.family.image_processor if self.image_input == "channels" else None

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens along time, rows and columns for a video of that many frames and pixels."""
        latent = self.latents_shape(frames, height, width)[1:]
        t, h, w = (size // patch for size, patch in zip(latent, self.patch_size, strict=True))
        return t, h, w


def read_facts(model_path: str | Path, elsewhere: Collection[str] = ()) -> ModelFacts:
    """Read ``model_index.json`` and the configurations of transformer and VAE, and check the other files of the folder.

    Args:
        elsewhere: components whose weights are not taken from this folder, and not checked.

    Raises:
        InvalidInput: the folder, a component, a file or a weight file is missing or damaged, or the model or a
            component is of a kind that Lockstep does not run.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        raise MachineUnfit(f"There is no model folder {folder}: download the model there, or correct model.path.")
    index = read_json(folder / "model_index.json")
    family = family_of(index, folder)
    for component in ("transformer", "vae", *family.text_encoders):
        check_class(folder, component, index, family.classes.get(component, ()))
    transformer = read_json(folder / "transformer" / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    check_sampler(folder, index, family.name)
    for component, encoder in zip(family.tokenizers, family.text_encoders, strict=False):
        check_tokenizer(folder, component)
        check_vocabulary(folder, component, encoder)
    if family.chats:
        check_chat_template(folder, family.tokenizers[0])
    try:
        in_channels = int(transformer.get("in_channels", 16))
        facts = ModelFacts(
            pipeline=index["_class_name"],
            family=family,
            **family.read_sizes(transformer, vae),
            boundary_timestep=_boundary_timestep(index),
            image_input=_image_input(index, transformer),
            clip_images=_clip_images(transformer),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"The configuration files in {folder} lack or garble {error}: download the model again."
        ) from None
    for component in facts.components[1:]:
        check_class(folder, component, index, family.classes.get(component, ()))
    if facts.boundary_timestep is not None:
        _check_alike(transformer, read_json(folder / "transformer_2" / "config.json"), folder)
    _check_needs(transformer, facts, folder)
    _check_channels(in_channels, facts, folder)
    check_latents(folder, vae, facts.latent_channels)
    check_widths(folder, transformer, facts.components)
    if facts.image_processor:
        read_json(folder / facts.image_processor / "preprocessor_config.json")
    for name in family.settings:
        read_json(folder / name)
    if family.guider:
        _check_guider(folder)
    for component in facts.components:
        if component not in elsewhere:
            check_weights(folder, component)
    return facts


def family_of(index: Mapping[str, Any], name: str | Path) -> Family:
    """The family of the model with that ``model_index.json``.

    Args:
        name: of the model, for the error.

    Raises:
        InvalidInput: Lockstep does not run it.
    """
    pipeline = index.get("_class_name")
    family = FAMILIES.get(pipeline) if isinstance(pipeline, str) else None
    if family is None:
        raise InvalidInput(f"{name} is a {pipeline}, which Lockstep does not run: use one of {', '.join(FAMILIES)}.")
    return family


def _boundary_timestep(index: dict[str, Any]) -> float | None:
    """Where the second transformer takes over. Some models with one transformer name a boundary all the same, and
    without a boundary diffusers ignores a second transformer."""
    ratio = index.get("boundary_ratio")
    if ratio is None or not any(index.get("transformer_2") or ()):
        return None
    return float(ratio) * NOISE_LEVELS


def _image_input(index: dict[str, Any], transformer: dict[str, Any]) -> Literal["none", "channels", "first frame"]:
    """How the model takes an image. TI2V 5B is published as a WanPipeline, and recognised by ``expand_timesteps``.
    HunyuanVideo's transformers have ``image_condition_type``."""
    kind = transformer.get("image_condition_type")
    if index.get("expand_timesteps") or kind == "token_replace":
        return "first frame"
    from_images = index["_class_name"] in ("WanImageToVideoPipeline", "HunyuanVideo15ImageToVideoPipeline")
    return "channels" if from_images or kind == "latent_concat" else "none"


def _clip_images(transformer: dict[str, Any]) -> int:
    if transformer.get("image_dim") is None:
        return 0
    return 1 if transformer.get("pos_embed_seq_len") is None else 2


def _check_guider(folder: Path) -> None:
    """Refuse any guidance but uncond + scale (cond − uncond) at every step; the scale is the request's."""
    settings = read_json(folder / "guider" / "guider_config.json")
    plain = {
        "_class_name": "ClassifierFreeGuidance",
        "guidance_rescale": 0.0,
        "use_original_formulation": False,
        "start": 0.0,
        "stop": 1.0,
        "enabled": True,
    }
    for key, needed in plain.items():
        if settings.get(key, needed) != needed:
            raise InvalidInput(
                f"The guider in {folder} has {key} {settings[key]}, but Lockstep runs {needed} alone: use another."
            )


def _check_needs(transformer: dict[str, Any], facts: ModelFacts, folder: Path) -> None:
    for key, needed in facts.family.needs:
        allowed = needed if isinstance(needed, tuple) else (needed,)
        # a single value may be left out: it is the default of diffusers' class
        value = transformer.get(key, None if isinstance(needed, tuple) else needed)
        if value not in allowed:
            raise InvalidInput(
                f"The transformer in {folder} has {key} {value}, but that of a {facts.pipeline} has "
                f"{' or '.join(map(str, allowed))}, so this is a kind of model that Lockstep does not run: use another."
            )


def _check_channels(in_channels: int, facts: ModelFacts, folder: Path) -> None:
    given = facts.latent_channels
    if facts.image_input == "channels" or facts.family.empty_channels:
        # the mask of given frames, and their latents
        given += (facts.family.mask_channels or facts.vae_scale_temporal) + facts.latent_channels
    if in_channels != given:
        raise InvalidInput(
            f"The transformer in {folder} takes {in_channels} channels, but as a {facts.pipeline} it would be given "
            f"{given}, so this is a kind of model that Lockstep does not run: use another."
        )


def _check_alike(first: dict[str, Any], second: dict[str, Any], folder: Path) -> None:
    keys = {
        key for key in first.keys() | second.keys() if not key.startswith("_")
    }  # e.g. the version of diffusers that wrote the file
    differing = sorted(key for key in keys if first.get(key) != second.get(key))
    if differing:
        raise InvalidInput(
            f"The two transformers of {folder} differ in {', '.join(differing)}, so one cannot continue what the "
            "other began: download the model again."
        )
