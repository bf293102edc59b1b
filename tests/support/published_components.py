"""All components of every model of the catalog at their published sizes: classes and configurations."""

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLWan,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoTransformer3DModel,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from engine.models.catalog import PublishedModel
from tests.support.published import WAN
from tests.support.published_hunyuan import HUNYUAN_VIDEO, HUNYUAN_VIDEO_15, HUNYUAN_VIDEO_VARIANTS

# the config.json files beside the weights, as far as they bear on sizes
UMT5_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
CLIP_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LLAMA = {
    "vocab_size": 128320,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
# xtuner/llava-llama-3-8b-v1_1-transformers; it sees 24 x 24 patches
LLAVA: dict[str, Any] = {
    "text_config": LLAMA,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
}
QWEN_25_VL_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
BYT5_SMALL = {  # with the tokens for colours and fonts of Glyph-SDXL-v2
    "vocab_size": 1510,
    "d_model": 1472,
    "d_kv": 64,
    "d_ff": 3584,
    "num_layers": 12,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
VAE_OF_TI2V: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}

Component = tuple[Any, dict[str, Any]]  # class and configuration


def wan(transformer: str, vae: dict[str, Any] | None = None, clip: bool = False) -> dict[str, Component]:
    components: dict[str, Component] = {"transformer": (WanTransformer3DModel, WAN[transformer])}
    if transformer.endswith("-A14B"):
        components["transformer_2"] = components["transformer"]
    components |= {"text_encoder": (UMT5EncoderModel, UMT5_XXL), "vae": (AutoencoderKLWan, vae or {})}
    return components | ({"image_encoder": (CLIPVisionModel, CLIP_H)} if clip else {})


HUNYUAN_REST: dict[str, Component] = {
    "text_encoder_2": (CLIPTextModel, CLIP_L),
    "vae": (AutoencoderKLHunyuanVideo, {}),
}


def hunyuan15(images: bool = False) -> dict[str, Component]:
    components: dict[str, Component] = {
        "transformer": (HunyuanVideo15Transformer3DModel, HUNYUAN_VIDEO_15),
        "text_encoder": (Qwen2_5_VLTextModel, QWEN_25_VL_7B),
        "text_encoder_2": (T5EncoderModel, BYT5_SMALL),
        "vae": (AutoencoderKLHunyuanVideo15, {}),
    }
    return components | ({"image_encoder": (SiglipVisionModel, SIGLIP_SO400M)} if images else {})


# by name in the catalog, each component by its folder
COMPONENTS: dict[str, dict[str, Component]] = {
    "Wan 2.1 T2V 1.3B": wan("Wan2.1-T2V-1.3B"),
    "Wan 2.1 T2V 14B": wan("Wan2.1-T2V-14B"),
    "Wan 2.1 I2V 14B 480P": wan("Wan2.1-I2V-14B", clip=True),
    "Wan 2.1 I2V 14B 720P": wan("Wan2.1-I2V-14B", clip=True),
    "Wan 2.1 FLF2V 14B 720P": wan("Wan2.1-FLF2V-14B", clip=True),
    "Wan 2.2 T2V A14B": wan("Wan2.2-T2V-A14B"),
    "Wan 2.2 I2V A14B": wan("Wan2.2-I2V-A14B"),
    "Wan 2.2 TI2V 5B": wan("Wan2.2-TI2V-5B", VAE_OF_TI2V),
    "HunyuanVideo": {
        "transformer": (HunyuanVideoTransformer3DModel, HUNYUAN_VIDEO),
        "text_encoder": (LlamaModel, LLAMA),
        **HUNYUAN_REST,
    },
    "HunyuanVideo I2V": {
        "transformer": (HunyuanVideoTransformer3DModel, HUNYUAN_VIDEO | HUNYUAN_VIDEO_VARIANTS["token_replace"]),
        "text_encoder": (LlavaForConditionalGeneration, LLAVA),
        **HUNYUAN_REST,
    },
    "HunyuanVideo I2V 33ch": {
        "transformer": (HunyuanVideoTransformer3DModel, HUNYUAN_VIDEO | HUNYUAN_VIDEO_VARIANTS["latent_concat"]),
        "text_encoder": (LlavaForConditionalGeneration, LLAVA),
        **HUNYUAN_REST,
    },
    "HunyuanVideo 1.5 T2V 480p": hunyuan15(),
    "HunyuanVideo 1.5 T2V 720p": hunyuan15(),
    "HunyuanVideo 1.5 I2V 480p": hunyuan15(images=True),
    "HunyuanVideo 1.5 I2V 720p": hunyuan15(images=True),
}
CONFIG_CLASSES = {
    UMT5EncoderModel: UMT5Config,
    CLIPVisionModel: CLIPVisionConfig,
    LlamaModel: LlamaConfig,
    LlavaForConditionalGeneration: LlavaConfig,
    CLIPTextModel: CLIPTextConfig,
    Qwen2_5_VLTextModel: Qwen2_5_VLTextConfig,
    T5EncoderModel: T5Config,
    SiglipVisionModel: SiglipVisionConfig,
}


def name_of(model: PublishedModel) -> str:
    return model.name
