"""HunyuanVideo 1.5 models with the published folders, files, classes and configuration keys, and random weights."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
)
from tokenizers import pre_tokenizers, trainers
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from tests.support.tiny_hunyuan import CHANNELS, GLYPH_DIM, IMAGE_DIM, TEXT_DIM, make_transformer

TARGET_SIZE = 64
"""Side of the square with as many pixels as the model's videos: 48 x 80, 64 x 64 and so on."""

# the part of Qwen's that the pipeline's messages reach
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_hunyuan15_checkpoint(folder: Path, images: bool) -> Path:
    """Write a text-to-video or image-to-video model to ``folder``: pixels in multiples of 16, frames 4n+1, four heads,
    two blocks."""
    torch.manual_seed(0)
    transformer = make_transformer("1.5 image" if images else "1.5 text")
    transformer.register_to_config(target_size=TARGET_SIZE)
    parts: dict[str, Any] = {
        "text_encoder": _qwen(),
        "tokenizer": qwen_tokenizer(),
        "text_encoder_2": _byt5(),
        "tokenizer_2": ByT5Tokenizer(),
        "transformer": transformer,
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=CHANNELS, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }
    if not images:
        HunyuanVideo15Pipeline(**parts).save_pretrained(folder)
        return folder
    HunyuanVideo15ImageToVideoPipeline(**parts, **_siglip()).save_pretrained(folder)
    index_file = folder / "model_index.json"
    # without torchvision transformers made a class of another name
    index = json.loads(index_file.read_text()) | {"feature_extractor": ["transformers", "SiglipImageProcessor"]}
    index_file.write_text(json.dumps(index))
    return folder


def _qwen() -> Qwen2_5_VLTextModel:
    return Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(
            vocab_size=1024,
            hidden_size=TEXT_DIM,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
            rope_parameters={"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e6},
        )
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Qwen's way of cutting words, with the words of the pipeline's own message alone: that has as many tokens as Qwen
    makes of it, 108 with what is around it, and is cropped as is meant. Other words become pieces."""
    message = inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds).parameters["system_message"].default
    core = Qwen2Tokenizer()._tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(["system", "user", "assistant", message], trainer)
    trained = json.loads(core.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=trained["vocab"], merges=merges, padding_side="right")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _byt5() -> T5EncoderModel:
    config = T5Config(vocab_size=384, d_model=GLYPH_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def _siglip() -> dict[str, Any]:
    """It sees 8 x 8 pixels as 4 tokens."""
    config = SiglipVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    extractor = SiglipImageProcessor(size={"height": 8, "width": 8})
    return {"image_encoder": SiglipVisionModel(config), "feature_extractor": extractor}
