"""The published models that Lockstep has a recipe for: one row each.

`lockstep models` and docs/models.md are made from the rows; tests count each row's parameters from the published
configurations, and run its recipe on a reduced model of the same layout (tests/support/tiny_models.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from engine.models.facts import ModelFacts
from engine.models.families import FAMILIES, Settings

ModelTask = Literal["text-to-video", "image-to-video", "first-last-frame"]


@dataclass(frozen=True)
class PublishedModel:
    """One checkpoint, as its authors publish it in the diffusers layout."""

    name: str
    hub_id: str
    recipe: str  # file in configs/
    source: str  # where the authors give the settings that the recipe repeats
    tasks: tuple[ModelTask, ...]
    pipeline: str  # class in its model_index.json
    transformer: Settings  # of its transformer/config.json: the sizes
    vae: Settings  # of its vae/config.json, where that differs from the defaults of diffusers' class
    parameters: Mapping[str, int]  # of each component, by its folder
    video: tuple[int, int, int]  # frames, height and width of the recipe
    live_tensors: int  # [tokens, dim] at once inside a block in the blocks' dtype, what went into it among them
    decode_bytes_per_pixel: int = 0  # decoded in strips of rows: bytes alive at once for each pixel of a strip's frame
    decode_bytes_per_tile: int = 0  # decoded in tiles on the first rank: bytes alive at once for a tile
    boundary_ratio: float | None = None  # in its model_index.json

    @cached_property
    def facts(self) -> ModelFacts:
        """Sizes, as ``read_facts`` reads them from the model's folder; fields about images are left out."""
        family = FAMILIES[self.pipeline]
        boundary = None if self.boundary_ratio is None else 1000 * self.boundary_ratio
        return ModelFacts(
            self.pipeline, family, **family.read_sizes(self.transformer, self.vae), boundary_timestep=boundary
        )

    @property
    def decodes_strips(self) -> bool:
        """Whether frames are decoded in strips of rows where there is room for it; else always in tiles."""
        return self.decode_bytes_per_pixel > 0

    @property
    def dim(self) -> int:
        """The transformer's width: numbers in a token between two blocks."""
        return int(self.transformer["num_attention_heads"] * self.transformer["attention_head_dim"])


_WAN21_SOURCE = "https://github.com/Wan-Video/Wan2.1 (README.md, generate.py)"
_WAN22_SOURCE = "https://github.com/Wan-Video/Wan2.2 (wan/configs)"
_WAN_14B: Settings = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "num_layers": 40,
    "ffn_dim": 13824,
    "in_channels": 16,
    "out_channels": 16,
}
_WAN_1B = _WAN_14B | {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
_WAN_5B = _WAN_14B | {
    "num_attention_heads": 24,
    "num_layers": 30,
    "ffn_dim": 14336,
    "in_channels": 48,
    "out_channels": 48,
}
_FROM_IMAGES = _WAN_14B | {"in_channels": 36}
_FROM_CLIP = _FROM_IMAGES | {"image_dim": 1280}
_T2V_14B = 14_288_491_584
_UMT5_XXL = {"text_encoder": 5_680_910_336}
_CLIP_H = {"image_encoder": 630_766_080}
_WAN_VAE = {"vae": 126_892_531}
_STRIPS = 19_600  # bytes a pixel
_STRIPS_OF_TI2V = 21_700

_VAE_OF_TI2V: Settings = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
}

_HUNYUAN_VIDEO: Settings = {
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 20,
    "num_single_layers": 40,
    "mlp_ratio": 4.0,
    "in_channels": 16,
    "out_channels": 16,
}
_LLAVA = {"text_encoder": 8_355_272_704}
_HUNYUAN_REST = {"text_encoder_2": 123_060_480, "vae": 246_478_803}

_HUNYUAN_VIDEO_15: Settings = {
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 54,
    "mlp_ratio": 4.0,
    "in_channels": 65,
    "out_channels": 32,
}
_HUNYUAN_VIDEO_15_TEXT = {
    "transformer": 8_326_608_160,
    "text_encoder": 7_070_619_136,
    "text_encoder_2": 219_314_944,
    "vae": 1_260_634_115,
}
_HUNYUAN_VIDEO_15_IMAGE = _HUNYUAN_VIDEO_15_TEXT | {"image_encoder": 428_225_600}
_HUNYUAN_VIDEO_15_SOURCE = "https://github.com/Tencent-Hunyuan/HunyuanVideo-1.5 (README.md, hyvideo/commons)"
_HUNYUAN_VIDEO_15_TILE = 24_400_000_000  # with all of the video's frames

CATALOG = (
    PublishedModel(
        name="Wan 2.1 T2V 1.3B",
        hub_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        recipe="wan2.1-t2v-1.3b.yaml",
        source=_WAN21_SOURCE,
        tasks=("text-to-video",),
        pipeline="WanPipeline",
        transformer=_WAN_1B,
        vae={},
        parameters={"transformer": 1_418_996_800, **_UMT5_XXL, **_WAN_VAE},
        video=(81, 480, 832),
        live_tensors=18,
        decode_bytes_per_pixel=_STRIPS,
    ),
    PublishedModel(
        name="Wan 2.1 T2V 14B",
        hub_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        recipe="wan2.1-t2v-14b.yaml",
        source=_WAN21_SOURCE,
        tasks=("text-to-video",),
        pipeline="WanPipeline",
        transformer=_WAN_14B,
        vae={},
        parameters={"transformer": _T2V_14B, **_UMT5_XXL, **_WAN_VAE},
        video=(81, 720, 1280),
        live_tensors=13,
        decode_bytes_per_pixel=_STRIPS,
    ),
    PublishedModel(
        name="Wan 2.1 I2V 14B 480P",
        hub_id="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        recipe="wan2.1-i2v-14b-480p.yaml",
        source=_WAN21_SOURCE,
        tasks=("image-to-video",),
        pipeline="WanImageToVideoPipeline",
        transformer=_FROM_CLIP,
        vae={},
        parameters={"transformer": 16_394_878_784, **_UMT5_XXL, **_CLIP_H, **_WAN_VAE},
        video=(81, 480, 832),
        live_tensors=13,
        decode_bytes_per_pixel=_STRIPS,
    ),
    PublishedModel(
        name="Wan 2.1 I2V 14B 720P",
        hub_id="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
        recipe="wan2.1-i2v-14b-720p.yaml",
        source=_WAN21_SOURCE,
        tasks=("image-to-video",),
        pipeline="WanImageToVideoPipeline",
        transformer=_FROM_CLIP,
        vae={},
        parameters={"transformer": 16_394_878_784, **_UMT5_XXL, **_CLIP_H, **_WAN_VAE},
        video=(81, 720, 1280),
        live_tensors=13,
        decode_bytes_per_pixel=_STRIPS,
    ),
    PublishedModel(
        name="Wan 2.1 FLF2V 14B 720P",
        hub_id="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
        recipe="wan2.1-flf2v-14b-720p.yaml",
        source=_WAN21_SOURCE,
        tasks=("first-last-frame",),
        pipeline="WanImageToVideoPipeline",
        transformer=_FROM_CLIP | {"pos_embed_seq_len": 514},
        vae={},
        parameters={"transformer": 16_395_536_704, **_UMT5_XXL, **_CLIP_H, **_WAN_VAE},
        video=(81, 720, 1280),
        live_tensors=13,
        decode_bytes_per_pixel=_STRIPS,
    ),
    PublishedModel(
        name="Wan 2.2 T2V A14B",
        hub_id="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        recipe="wan2.2-t2v-a14b.yaml",
        source=_WAN22_SOURCE,
        tasks=("text-to-video",),
        pipeline="WanPipeline",
        transformer=_WAN_14B,
        vae={},
        parameters={"transformer": _T2V_14B, "transformer_2": _T2V_14B, **_UMT5_XXL, **_WAN_VAE},
        video=(81, 720, 1280),
        live_tensors=13,
        decode_bytes_per_pixel=_STRIPS,
        boundary_ratio=0.875,
    ),
    PublishedModel(
        name="Wan 2.2 I2V A14B",
        hub_id="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        recipe="wan2.2-i2v-a14b.yaml",
        source=_WAN22_SOURCE,
        tasks=("image-to-video",),
        pipeline="WanImageToVideoPipeline",
        transformer=_FROM_IMAGES,
        vae={},
        parameters={"transformer": 14_288_901_184, "transformer_2": 14_288_901_184, **_UMT5_XXL, **_WAN_VAE},
        video=(81, 720, 1280),
        live_tensors=13,
        decode_bytes_per_pixel=_STRIPS,
        boundary_ratio=0.9,
    ),
    PublishedModel(
        name="Wan 2.2 TI2V 5B",
        hub_id="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        recipe="wan2.2-ti2v-5b.yaml",
        source=_WAN22_SOURCE,
        tasks=("text-to-video", "image-to-video"),
        pipeline="WanPipeline",
        transformer=_WAN_5B,
        vae=_VAE_OF_TI2V,
        parameters={"transformer": 4_999_787_712, **_UMT5_XXL, "vae": 704_688_668},
        video=(121, 704, 1280),
        live_tensors=15,
        decode_bytes_per_pixel=_STRIPS_OF_TI2V,
    ),
    PublishedModel(
        name="HunyuanVideo",
        hub_id="hunyuanvideo-community/HunyuanVideo",
        recipe="hunyuan-video.yaml",
        source="https://github.com/Tencent-Hunyuan/HunyuanVideo (README.md, hyvideo/config.py)",
        tasks=("text-to-video",),
        pipeline="HunyuanVideoPipeline",
        transformer=_HUNYUAN_VIDEO,
        vae={},
        parameters={
            "transformer": 12_821_012_544,
            "text_encoder": 7_505_186_816,
            **_HUNYUAN_REST,
        },
        video=(129, 720, 1280),
        live_tensors=20,
        decode_bytes_per_tile=5_200_000_000,
    ),
    PublishedModel(
        name="HunyuanVideo I2V",
        hub_id="hunyuanvideo-community/HunyuanVideo-I2V",
        recipe="hunyuan-video-i2v.yaml",
        source="https://github.com/Tencent-Hunyuan/HunyuanVideo-I2V (README.md)",
        tasks=("image-to-video",),
        pipeline="HunyuanVideoImageToVideoPipeline",
        transformer=_HUNYUAN_VIDEO | {"image_condition_type": "token_replace"},
        vae={},
        parameters={"transformer": 12_821_012_544, **_LLAVA, **_HUNYUAN_REST},
        video=(129, 720, 1280),
        live_tensors=20,
        decode_bytes_per_tile=5_200_000_000,
    ),
    PublishedModel(
        name="HunyuanVideo I2V 33ch",
        hub_id="hunyuanvideo-community/HunyuanVideo-I2V-33ch",
        recipe="hunyuan-video-i2v-33ch.yaml",
        source="https://github.com/Tencent-Hunyuan/HunyuanVideo-I2V and diffusers' HunyuanVideoImageToVideoPipeline",
        tasks=("image-to-video",),
        pipeline="HunyuanVideoImageToVideoPipeline",
        transformer=_HUNYUAN_VIDEO
        | {"image_condition_type": "latent_concat", "in_channels": 33, "guidance_embeds": False},
        vae={},
        parameters={"transformer": 12_810_991_680, **_LLAVA, **_HUNYUAN_REST},
        video=(129, 720, 1280),
        live_tensors=20,
        decode_bytes_per_tile=5_200_000_000,
    ),
    PublishedModel(
        name="HunyuanVideo 1.5 T2V 480p",
        hub_id="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
        recipe="hunyuan-video15-t2v-480p.yaml",
        source=_HUNYUAN_VIDEO_15_SOURCE,
        tasks=("text-to-video",),
        pipeline="HunyuanVideo15Pipeline",
        transformer=_HUNYUAN_VIDEO_15,
        vae={},
        parameters=_HUNYUAN_VIDEO_15_TEXT,
        video=(121, 480, 848),
        live_tensors=15,
        decode_bytes_per_tile=_HUNYUAN_VIDEO_15_TILE,
    ),
    PublishedModel(
        name="HunyuanVideo 1.5 T2V 720p",
        hub_id="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v",
        recipe="hunyuan-video15-t2v-720p.yaml",
        source=_HUNYUAN_VIDEO_15_SOURCE,
        tasks=("text-to-video",),
        pipeline="HunyuanVideo15Pipeline",
        transformer=_HUNYUAN_VIDEO_15,
        vae={},
        parameters=_HUNYUAN_VIDEO_15_TEXT,
        video=(121, 720, 1280),
        live_tensors=15,
        decode_bytes_per_tile=_HUNYUAN_VIDEO_15_TILE,
    ),
    PublishedModel(
        name="HunyuanVideo 1.5 I2V 480p",
        hub_id="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v",
        recipe="hunyuan-video15-i2v-480p.yaml",
        source=_HUNYUAN_VIDEO_15_SOURCE,
        tasks=("image-to-video",),
        pipeline="HunyuanVideo15ImageToVideoPipeline",
        transformer=_HUNYUAN_VIDEO_15,
        vae={},
        parameters=_HUNYUAN_VIDEO_15_IMAGE,
        video=(121, 480, 848),
        live_tensors=15,
        decode_bytes_per_tile=_HUNYUAN_VIDEO_15_TILE,
    ),
    PublishedModel(
        name="HunyuanVideo 1.5 I2V 720p",
        hub_id="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_i2v",
        recipe="hunyuan-video15-i2v-720p.yaml",
        source=_HUNYUAN_VIDEO_15_SOURCE,
        tasks=("image-to-video",),
        pipeline="HunyuanVideo15ImageToVideoPipeline",
        transformer=_HUNYUAN_VIDEO_15,
        vae={},
        parameters=_HUNYUAN_VIDEO_15_IMAGE,
        video=(121, 720, 1280),
        live_tensors=15,
        decode_bytes_per_tile=_HUNYUAN_VIDEO_15_TILE,
    ),
)
