"""The denoiser: its weights, the dtype of its arithmetic and its attention kernel."""

import importlib.util

import torch
from diffusers import WanTransformer3DModel

from engine.components.files import load_component
from engine.config import Config


def transformer_dtype(config: Config, device: torch.device) -> torch.dtype:
    """What the configuration asks for; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return named.get(config.model.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)


def uses_flash(config: Config, device: torch.device) -> bool:
    """Whether attention runs through flash-attn: asked for, or installed and able (CUDA, not float32)."""
    able = device.type == "cuda" and transformer_dtype(config, device) != torch.float32
    wanted = config.runtime.attention
    return able and (wanted == "flash" or (wanted == "auto" and importlib.util.find_spec("flash_attn") is not None))


def load_transformer(config: Config, device: torch.device, subfolder: str = "transformer") -> WanTransformer3DModel:
    """The denoiser in that folder of the model, in evaluation mode, to run on ``device``; still on the CPU."""
    transformer = load_component(
        WanTransformer3DModel.from_pretrained,
        config.model.path,
        subfolder=subfolder,
        dtype=transformer_dtype(config, device),
    )
    if uses_flash(config, device):
        transformer.set_attention_backend("flash")
    return transformer.eval()
