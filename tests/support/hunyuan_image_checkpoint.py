"""HunyuanVideo image-to-video models with the published folders, files and configuration keys, and random weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoImageToVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tests.support.hunyuan_checkpoint import WORDS, name_classes, write_clip
from tests.support.tiny_hunyuan import CHANNELS, TEXT_DIM, make_transformer

SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")
IMAGE_SIDE, PATCH = 48, 2  # 24 x 24 = 576 image tokens, a number that diffusers' pipeline has in its code


def write_hunyuan_image_checkpoint(folder: Path, kind: str) -> Path:
    """Write a model of that ``image_condition_type``, "latent_concat" or "token_replace", to ``folder``: pixels in
    multiples of 16, frames 4n+1, four heads, four blocks."""
    torch.manual_seed(0)
    tokenizer = _llama_tokenizer()
    pipeline = HunyuanVideoImageToVideoPipeline(
        text_encoder=LlavaForConditionalGeneration(_llava(tokenizer)).eval(),
        tokenizer=tokenizer,
        **write_clip(folder),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIDE}, crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}
        ),
        transformer=make_transformer(kind),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=CHANNELS, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    pipeline.save_pretrained(folder)
    name_classes(folder, tokenizer="LlamaTokenizerFast", image_processor="CLIPImageProcessor")
    return folder


def _llava(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The hidden states that are taken are the last but two, so there are layers after them."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=PATCH,
        initializer_factor=5.0,
    )
    return LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words but for one, which makes of the template the 103 tokens after which the pipeline cuts."""
    splitter = pre_tokenizers.Split(Regex(r"\n+|atmos(?=phere)|\w+|[^\w\s]"), behavior="removed", invert=True)
    template = DEFAULT_PROMPT_TEMPLATE["template"]
    for word in SPECIAL:
        template = template.replace(word, " ")
    words = [word for word, _ in splitter.pre_tokenize_str(template)]
    vocabulary = dict.fromkeys(["<pad>", "<unk>", *SPECIAL, *words, *WORDS])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = splitter
    begin = SPECIAL[0]
    core.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=begin,
        eos_token="<|eot_id|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[1:3] + SPECIAL[4:]),
        padding_side="right",
        model_max_length=1024,
    )
