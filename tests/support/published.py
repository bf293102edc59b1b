"""The transformers of published checkpoints, and small ones of the same kind.

Configurations: ``get_transformer_config`` in scripts/convert_wan_to_diffusers.py of huggingface/diffusers, which wrote
the ``transformer/config.json`` of the Wan-AI/*-Diffusers checkpoints, with the defaults of the class that
``save_config`` adds. Dimensions agree with the authors' own wan/configs, as ml-explore/mlx-examples holds them.
"""

from typing import Any

import torch
from diffusers import WanTransformer3DModel

_WAN_14B: dict[str, Any] = {
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
_CLIP = {"added_kv_proj_dim": 5120, "image_dim": 1280, "in_channels": 36}

WAN: dict[str, dict[str, Any]] = {
    "Wan2.1-T2V-1.3B": _WAN_14B | {"ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30},
    "Wan2.1-T2V-14B": _WAN_14B,
    "Wan2.1-I2V-14B": _WAN_14B | _CLIP,  # 480P and 720P alike
    "Wan2.1-FLF2V-14B": _WAN_14B | _CLIP | {"pos_embed_seq_len": 514},
    "Wan2.2-T2V-A14B": _WAN_14B,  # both experts
    "Wan2.2-I2V-A14B": _WAN_14B | {"in_channels": 36},  # both experts; no CLIP
    "Wan2.2-TI2V-5B": _WAN_14B
    | {"ffn_dim": 14336, "in_channels": 48, "num_attention_heads": 24, "num_layers": 30, "out_channels": 48},
}

# one name of each kind that is left when sizes are reduced; TI2V takes an image or none
WAN_KINDS = (
    "Wan2.1-T2V-14B",
    "Wan2.1-I2V-14B",
    "Wan2.1-FLF2V-14B",
    "Wan2.2-I2V-A14B",
    "Wan2.2-TI2V-5B",
    "Wan2.2-TI2V-5B image",
)


def reduced(name: str) -> dict[str, Any]:
    """The same keys with small numbers: 4 heads of 12, 3 blocks, and a CLIP of 5 tokens of 10 numbers an image."""
    config = WAN[name.removesuffix(" image")]
    small = {"attention_head_dim": 12, "ffn_dim": 32, "freq_dim": 16, "num_attention_heads": 4, "num_layers": 3}
    small |= {"text_dim": 16, "rope_max_seq_len": 64}
    if config["image_dim"]:
        small |= {"image_dim": 10, "added_kv_proj_dim": 48}
    if config["pos_embed_seq_len"]:
        small |= {"pos_embed_seq_len": 10}
    return config | small


def random_wan(name: str, seed: int = 0) -> WanTransformer3DModel:
    """Reduced. Random in every parameter: one that starts as zeros or ones would hide that it is left out."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(**reduced(name)).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return transformer
