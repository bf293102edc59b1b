"""The denoiser: its weights and its attention kernel."""

import importlib.util
from typing import Any

import torch

from engine.components.dtypes import transformer_dtype
from engine.components.empty import empty_component
from engine.components.files import loading
from engine.components.single_files import load_weights
from engine.config import Config
from engine.models.folder import weight_files
from parallel.diffusers_private import ignored_keys
from parallel.ranks import Ranks
from parallel.slices import load_slices
from parallel.weights import ShardedWeights, shard_pieces


def uses_flash(config: Config, device: torch.device) -> bool:
    """Whether attention runs through flash-attn: asked for, or installed and able (CUDA, not float32)."""
    able = device.type == "cuda" and transformer_dtype(config, device) != torch.float32
    wanted = config.runtime.attention
    return able and (wanted == "flash" or (wanted == "auto" and importlib.util.find_spec("flash_attn") is not None))


def load_transformer(config: Config, device: torch.device, kind: Any, subfolder: str = "transformer") -> Any:
    """The denoiser in that folder of the model, a ``kind`` in evaluation mode, to run on ``device``; still on the
    CPU."""
    transformer = load_weights(kind, config, subfolder, transformer_dtype(config, device))
    if uses_flash(config, device):
        transformer.set_attention_backend("flash")
    return transformer.eval()


def load_sharded_transformer(
    config: Config, ranks: Ranks, kind: Any, subfolder: str = "transformer"
) -> tuple[Any, ShardedWeights]:
    """The same denoiser with only this rank's part of its weights; no rank ever holds or reads all of them."""
    path = config.model.path
    with loading(subfolder, path):
        transformer = empty_component(kind, path, subfolder, transformer_dtype(config, ranks.device))
        if uses_flash(config, ranks.device):
            transformer.set_attention_backend("flash")
        weights = shard_pieces(transformer, ranks)
        load_slices(transformer, list(weight_files(path, subfolder)), ranks.device, ignored_keys(transformer))
    return transformer.eval(), weights
