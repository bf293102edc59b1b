"""Models of a few thousand random weights in the diffusers layout: enough to run every stage, quick to load."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.support.published import random_wan, reduced

TEXT_DIM = 16


def write_tiny_checkpoint(folder: Path, num_heads: int = 4, num_layers: int = 3) -> Path:
    """Write a text-to-video model to ``folder``: pixels in multiples of 16, frames 4n+1."""
    torch.manual_seed(0)
    pipeline = WanPipeline(
        **_text(),
        vae=_vae(),
        transformer=WanTransformer3DModel(
            num_attention_heads=num_heads,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT_DIM,
            freq_dim=16,
            ffn_dim=32,
            num_layers=num_layers,
        ),
        scheduler=_scheduler(),
        expand_timesteps=False,
        boundary_ratio=None,
    )
    pipeline.save_pretrained(folder)
    return folder


def write_published_wan(folder: Path, name: str) -> Path:
    """Write a reduced model, laid out as the published checkpoint of that name (a key of
    ``tests.support.published.WAN``), with weights large enough that steps differ and caches have something to see."""
    if "-T2V-" not in name:
        return write_image_checkpoint(folder, name)
    torch.manual_seed(0)
    parts = {**_text(), "scheduler": _scheduler(), "transformer": random_wan(name), "vae": _vae()}
    if name == "Wan2.2-T2V-A14B":
        parts |= {"transformer_2": random_wan(name, seed=1), "boundary_ratio": 0.875}
    WanPipeline(**parts).save_pretrained(folder)
    return folder


def write_image_checkpoint(folder: Path, name: str) -> Path:
    """Write a reduced model that takes images, laid out as the published checkpoint of that name (a key of
    ``tests.support.published.WAN``). Pixels in multiples of 16 (TI2V 32), frames 4n+1."""
    torch.manual_seed(0)
    parts = {**_text(), "scheduler": _scheduler(), "transformer": random_wan(name)}
    if name == "Wan2.2-TI2V-5B":  # published as a text-to-video pipeline
        WanPipeline(**parts, vae=_vae_of_ti2v(), expand_timesteps=True).save_pretrained(folder)
        return folder
    if name == "Wan2.2-I2V-A14B":
        parts |= {"transformer_2": random_wan(name, seed=1), "boundary_ratio": 0.9}
    if image_dim := reduced(name)["image_dim"]:
        parts |= _clip(image_dim)
    WanImageToVideoPipeline(**parts, vae=_vae()).save_pretrained(folder)
    index_file = folder / "model_index.json"
    index = json.loads(index_file.read_text())
    if image_dim:  # without torchvision transformers made a class of another name
        index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    index_file.write_text(json.dumps(index))
    return folder


def _text() -> dict[str, Any]:
    letters = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {chr(code): code - 61 for code in range(64, 127)}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    text = UMT5Config(vocab_size=70, d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    return {
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
        ),
        "text_encoder": UMT5EncoderModel(text),
    }


def _clip(image_dim: int) -> dict[str, Any]:
    """A CLIP that sees 8 x 8 pixels as 5 tokens; its layers differ enough for the last but one to be told apart."""
    config = CLIPVisionConfig(
        hidden_size=image_dim,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        initializer_factor=5.0,
    )
    size = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    return {"image_encoder": CLIPVisionModel(config), "image_processor": CLIPImageProcessor(**size)}


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def _vae_of_ti2v() -> AutoencoderKLWan:
    """Of Wan 2.2: residual, four pixels to a channel, 16 pixels to a latent row."""
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=torch.randn(48).tolist(),
        latents_std=(0.5 + torch.rand(48)).tolist(),
    )


def _scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
