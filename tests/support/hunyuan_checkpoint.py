"""A HunyuanVideo text-to-video model with the published folders, files and configuration keys, and random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from tests.support.tiny_hunyuan import CHANNELS, POOLED_DIM, TEXT_DIM, make_transformer

WORDS = ("a", "red", "blue", "circle", "square", "moving", "left", "slowly", "on", "the", "navy", "background")


def write_hunyuan_checkpoint(folder: Path) -> Path:
    """Write the model to ``folder``: pixels in multiples of 16, frames 4n+1, four heads, four blocks."""
    torch.manual_seed(0)
    tokenizer = llama_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        pad_token_id=0,
    )
    pipeline = HunyuanVideoPipeline(
        text_encoder=LlamaModel(llama),
        tokenizer=tokenizer,
        **write_clip(folder),
        transformer=make_transformer("text"),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=CHANNELS, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    pipeline.save_pretrained(folder)
    return folder


def name_classes(folder: Path, **classes: str) -> None:
    """Name the classes of transformers as the published folders do, which were written by an older version."""
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {k: ["transformers", v] for k, v in classes.items()}))
    if "tokenizer" in classes:
        file = folder / "tokenizer" / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": classes["tokenizer"]}))


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, so that the template has about as many tokens as Llama makes of it, and is cropped as is meant."""
    splitter = pre_tokenizers.Whitespace()
    template = [word for word, _ in splitter.pre_tokenize_str(DEFAULT_PROMPT_TEMPLATE["template"])]
    vocabulary = dict.fromkeys(["<pad>", "<unk>", *template, *WORDS])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", padding_side="right", model_max_length=1024
    )


def write_clip(folder: Path) -> dict[str, Any]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    files = folder / "tokenizer_2"
    files.mkdir(parents=True)
    (files / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    start, end = len(tokens) - 2, len(tokens) - 1
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=POOLED_DIM,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        initializer_factor=5.0,
    )
    return {
        "text_encoder_2": CLIPTextModel(config),
        "tokenizer_2": CLIPTokenizer.from_pretrained(files, model_max_length=77),
    }
