"""The families of models that Lockstep runs: what is known of each before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NotRequired, TypedDict

from engine.models import layer_names
from engine.models.layer_names import LayerNames

Settings = dict[str, Any]


class Sizes(TypedDict):
    """Sizes of one model; the fields are those of ``engine.models.facts.ModelFacts``."""

    num_heads: int
    num_layers: int
    patch_size: tuple[int, int, int]
    latent_channels: int
    vae_scale_spatial: int
    vae_scale_temporal: int
    rope_max_seq_len: int | None
    guidance_distilled: bool
    dropped_frames: NotRequired[int]


@dataclass(frozen=True)
class Family:
    """Models that are run by the same classes, and what a request to them may ask for."""

    name: str
    parts: str  # module whose PARTS are the torch side, an ``engine.components.parts.Parts``
    read_sizes: Callable[[Settings, Settings], Sizes]  # from the configurations of the transformer and the VAE
    text_encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    chats: bool = False  # the first tokenizer needs a chat template for prompts
    schedulers: tuple[str, ...] = ("unipc", "euler")
    max_text_tokens: int = 512
    vae_dtype: Literal["float32", "float16"] = "float32"  # on CUDA, as diffusers' examples load it
    shards_text_encoder: bool = True  # with parallel.shard_weights; else the first rank holds it whole
    signals: tuple[str, ...] = ()  # names that Adapter.signal takes
    text_stream: bool = False  # its blocks change the text along with the video
    layer_names: LayerNames = field(default_factory=LayerNames)  # under which adapters know the transformer's layers
    single_files: tuple[str, ...] = ()  # components that diffusers can convert from their original format
    # class names under which each component is published, the one that is run first; components not listed may have any
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # settings that the transformer's config.json has to have; a tuple lists the accepted values
    needs: tuple[tuple[str, Any], ...] = ()
    settings: tuple[str, ...] = ()  # JSON files that a folder must have beside those of the components above
    needs_image: bool = False  # of every model of the family
    guider: bool = False  # a folder "guider" describes classifier-free guidance
    image_processor: str | None = None  # folder of the image encoder's processor in image-to-video models
    takes_last_image: bool = True  # at least some models of the family do
    mask_channels: int | None = None  # of the mask beside an image's latents; None: vae_scale_temporal
    empty_channels: bool = False  # text-to-video models have the channels for an image as well, filled with zeros
    min_frames: int = 1
    reserved_words: tuple[str, ...] = ()  # that a prompt may not hold: the tokenizer reads them as an image


def _read_wan(transformer: Settings, vae: Settings) -> Sizes:
    return {
        "num_heads": int(transformer["num_attention_heads"]),
        "num_layers": int(transformer["num_layers"]),
        "patch_size": _triple(transformer.get("patch_size", (1, 2, 2))),
        "latent_channels": int(transformer.get("out_channels", 16) or transformer.get("in_channels", 16)),
        "vae_scale_spatial": int(vae.get("scale_factor_spatial", 8)),
        "vae_scale_temporal": int(vae.get("scale_factor_temporal", 4)),
        "rope_max_seq_len": int(transformer.get("rope_max_seq_len", 1024)),
        "guidance_distilled": bool(transformer.get("guidance_embeds", False)),
    }


def _triple(values: Any) -> tuple[int, int, int]:
    t, h, w = values
    return int(t), int(h), int(w)


def _read_hunyuan_video(transformer: Settings, vae: Settings) -> Sizes:
    patch_size = int(transformer.get("patch_size", 2))
    return {
        "num_heads": int(transformer["num_attention_heads"]),
        "num_layers": int(transformer["num_layers"]) + int(transformer["num_single_layers"]),
        "patch_size": (int(transformer.get("patch_size_t", 1)), patch_size, patch_size),
        "latent_channels": int(transformer.get("out_channels", 16)),
        "vae_scale_spatial": int(vae.get("spatial_compression_ratio", 8)),
        "vae_scale_temporal": int(vae.get("temporal_compression_ratio", 4)),
        "rope_max_seq_len": None,
        "guidance_distilled": bool(transformer.get("guidance_embeds", True)),
        # the pipeline decodes these frames and removes them
        "dropped_frames": 4 if transformer.get("image_condition_type") == "latent_concat" else 0,
    }


def _read_hunyuan_video15(transformer: Settings, vae: Settings) -> Sizes:
    patch_size = int(transformer.get("patch_size", 1))
    return {
        "num_heads": int(transformer["num_attention_heads"]),
        "num_layers": int(transformer["num_layers"]),
        "patch_size": (int(transformer.get("patch_size_t", 1)), patch_size, patch_size),
        "latent_channels": int(transformer.get("out_channels", 32)),
        "vae_scale_spatial": int(vae.get("spatial_compression_ratio", 16)),
        "vae_scale_temporal": int(vae.get("temporal_compression_ratio", 4)),
        "rope_max_seq_len": None,
        "guidance_distilled": False,
    }


WAN = Family(
    "Wan",
    "engine.components.wan.parts",
    _read_wan,
    signals=("timestep_embedding", "timestep_modulation"),
    layer_names=layer_names.WAN,
    single_files=("transformer", "transformer_2", "vae"),
    classes={
        "transformer": ("WanTransformer3DModel",),
        "transformer_2": ("WanTransformer3DModel",),
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
        "image_encoder": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    },
)

HUNYUAN_VIDEO = Family(
    "HunyuanVideo",
    "engine.components.hunyuan_video.text_to_video",
    _read_hunyuan_video,
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    schedulers=("euler",),
    max_text_tokens=256,
    vae_dtype="float16",
    shards_text_encoder=False,
    layer_names=layer_names.HUNYUAN_VIDEO,
    single_files=("transformer",),
    signals=("modulated_input",),
    text_stream=True,
    needs=(("guidance_embeds", True), ("image_condition_type", None)),
    classes={
        "transformer": ("HunyuanVideoTransformer3DModel",),
        "vae": ("AutoencoderKLHunyuanVideo",),
        "text_encoder": ("LlamaModel", "LlamaForCausalLM"),
        "text_encoder_2": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    },
)

HUNYUAN_VIDEO_IMAGE = replace(
    HUNYUAN_VIDEO,
    name="HunyuanVideo-I2V",
    parts="engine.components.hunyuan_video.image_to_video",
    needs=(("image_condition_type", ("latent_concat", "token_replace")),),
    settings=("image_processor/preprocessor_config.json",),
    needs_image=True,
    takes_last_image=False,
    mask_channels=1,
    min_frames=5,
    reserved_words=("<image>",),
    classes={**HUNYUAN_VIDEO.classes, "text_encoder": ("LlavaForConditionalGeneration",)},
)

HUNYUAN_VIDEO_15 = Family(
    "HunyuanVideo 1.5",
    "engine.components.hunyuan_video15.parts",
    _read_hunyuan_video15,
    text_encoders=("text_encoder", "text_encoder_2"),
    chats=True,
    schedulers=("euler",),
    max_text_tokens=1000,
    vae_dtype="float16",
    shards_text_encoder=False,
    layer_names=layer_names.HUNYUAN_VIDEO_15,
    signals=("modulated_input",),
    text_stream=True,
    needs=(("use_meanflow", False),),
    settings=("tokenizer_2/tokenizer_config.json",),  # the only file of a byte tokenizer
    guider=True,
    image_processor="feature_extractor",
    takes_last_image=False,
    mask_channels=1,
    empty_channels=True,
    classes={
        "transformer": ("HunyuanVideo15Transformer3DModel",),
        "vae": ("AutoencoderKLHunyuanVideo15",),
        "text_encoder": ("Qwen2_5_VLTextModel", "Qwen2_5_VLModel", "Qwen2_5_VLForConditionalGeneration"),
        "text_encoder_2": ("T5EncoderModel", "T5ForConditionalGeneration"),
        "image_encoder": ("SiglipVisionModel", "SiglipModel"),
    },
)

FAMILIES = {
    "WanPipeline": WAN,
    "WanImageToVideoPipeline": WAN,
    "HunyuanVideoPipeline": HUNYUAN_VIDEO,
    "HunyuanVideoImageToVideoPipeline": HUNYUAN_VIDEO_IMAGE,
    "HunyuanVideo15Pipeline": HUNYUAN_VIDEO_15,
    "HunyuanVideo15ImageToVideoPipeline": HUNYUAN_VIDEO_15,
}
