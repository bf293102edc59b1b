"""The sizes of a transformer on which its FLOPs, its memory and what its ranks send depend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from engine.errors import InvalidInput
from engine.models.catalog import PublishedModel
from engine.models.facts import family_of
from engine.models.families import FAMILIES, HUNYUAN_VIDEO, HUNYUAN_VIDEO_15, HUNYUAN_VIDEO_IMAGE, WAN, Family
from engine.models.folder import read_json

Kind = Literal["wan", "hunyuan_video", "hunyuan_video15"]

_KINDS: Mapping[str, Kind] = {
    WAN.name: "wan",
    HUNYUAN_VIDEO.name: "hunyuan_video",
    HUNYUAN_VIDEO_IMAGE.name: "hunyuan_video",
    HUNYUAN_VIDEO_15.name: "hunyuan_video15",
}


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of one transformer; two experts of one model have the same."""

    kind: Kind
    heads: int
    head_dim: int
    ffn_dim: int
    blocks: int
    """Wan: all blocks, whose text stays as it is. HunyuanVideo: those with a stream for the video and one for the text,
    each with weights of its own."""
    single_blocks: int
    """HunyuanVideo's blocks with one set of weights for video and text, which come last; 0 in all other models."""
    in_channels: int
    out_channels: int
    patch: tuple[int, int, int]  # latent frames, rows and columns in a token
    text_dim: int  # of the first text encoder's embeddings
    frequency_dim: int = 256  # of the sinusoids that stand for a timestep
    pooled_dim: int = 0  # HunyuanVideo: of CLIP's embedding of the whole text
    glyph_dim: int = 0  # HunyuanVideo 1.5: of ByT5's embeddings
    image_dim: int = 0  # of the image encoder's embeddings; 0 where the transformer takes none
    refiner_blocks: int = 0  # that the text runs through before the blocks
    guidance_embedded: bool = False
    first_frame_given: bool = False
    """HunyuanVideo's "token_replace": tokens of a given first frame have a modulation of their own."""

    @property
    def dim(self) -> int:
        """Numbers in a token between two blocks."""
        return self.heads * self.head_dim

    @property
    def num_blocks(self) -> int:
        """Blocks of both kinds."""
        return self.blocks + self.single_blocks

    @property
    def joint(self) -> bool:
        """Whether video and text attend to one another as one sequence."""
        return self.kind != "wan"

    @property
    def patch_values(self) -> int:
        """Values of one channel in a token."""
        return prod(self.patch)


def shape_of_config(family: Family, config: Mapping[str, Any]) -> TransformerShape:
    """The shape that a transformer's ``config.json`` describes; a key that is left out has the default of diffusers'
    class.

    Raises:
        KeyError, TypeError, ValueError: the configuration lacks a size that has no default here, or garbles one.
    """
    heads, head_dim = int(config["num_attention_heads"]), int(config["attention_head_dim"])
    kind = _KINDS[family.name]
    if kind == "wan":
        in_channels = int(config.get("in_channels", 16))
        frames, rows, columns = config.get("patch_size", (1, 2, 2))
        return TransformerShape(
            kind,
            heads,
            head_dim,
            ffn_dim=int(config["ffn_dim"]),
            blocks=int(config["num_layers"]),
            single_blocks=0,
            in_channels=in_channels,
            out_channels=int(config.get("out_channels", 16) or in_channels),
            patch=(int(frames), int(rows), int(columns)),
            text_dim=int(config.get("text_dim", 4096)),
            frequency_dim=int(config.get("freq_dim", 256)),
            image_dim=int(config.get("image_dim") or 0),
        )
    newer = kind == "hunyuan_video15"
    side = int(config.get("patch_size", 1 if newer else 2))
    in_channels = int(config.get("in_channels", 65 if newer else 16))
    return TransformerShape(
        kind,
        heads,
        head_dim,
        ffn_dim=int(heads * head_dim * float(config.get("mlp_ratio", 4.0))),
        blocks=int(config["num_layers"]),
        single_blocks=0 if newer else int(config["num_single_layers"]),
        in_channels=in_channels,
        out_channels=int(config.get("out_channels", 32 if newer else 16) or in_channels),
        patch=(int(config.get("patch_size_t", 1)), side, side),
        text_dim=int(config.get("text_embed_dim", 3584 if newer else 4096)),
        pooled_dim=0 if newer else int(config.get("pooled_projection_dim", 768)),
        glyph_dim=int(config.get("text_embed_2_dim", 1472)) if newer else 0,
        image_dim=int(config.get("image_embed_dim", 1152)) if newer else 0,
        refiner_blocks=int(config.get("num_refiner_layers", 2)),
        guidance_embedded=not newer and bool(config.get("guidance_embeds", True)),
        first_frame_given=config.get("image_condition_type") == "token_replace",
    )


def shape_of_model(model: PublishedModel) -> TransformerShape:
    """The shape of a published model, from its row of the catalog: no file is read."""
    return shape_of_config(FAMILIES[model.pipeline], model.transformer)


def read_shape(folder: str | Path) -> TransformerShape:
    """The shape of the model in a folder, from its JSON files alone.

    Raises:
        InvalidInput: a file is missing or damaged, or the model is of a kind that Lockstep does not run; one sentence.
    """
    folder = Path(folder)
    family = family_of(read_json(folder / "model_index.json"), folder)
    config = read_json(folder / "transformer" / "config.json")
    try:
        return shape_of_config(family, config)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{folder / 'transformer' / 'config.json'} lacks or garbles {error}: download the model again."
        ) from None
