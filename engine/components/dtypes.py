"""The dtype of each component's arithmetic."""

import torch

from engine.config import Config
from engine.models.families import Family

_NAMED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def transformer_dtype(config: Config, device: torch.device) -> torch.dtype:
    """``model.dtype``; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    return _NAMED.get(config.model.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)


def text_encoder_dtype(config: Config, device: torch.device) -> torch.dtype:
    """``model.text_encoder_dtype``; "auto" is the transformer's dtype, as in the published examples."""
    return _NAMED.get(config.model.text_encoder_dtype, transformer_dtype(config, device))


def vae_dtype(config: Config, device: torch.device, family: Family) -> torch.dtype:
    """``model.vae_dtype``; "auto" is on CUDA that of the published examples, and float32 elsewhere."""
    return _NAMED.get(config.model.vae_dtype, _NAMED[family.vae_dtype] if device.type == "cuda" else torch.float32)


def resolved_dtypes(config: Config, device: torch.device, family: Family) -> dict[str, str]:
    """The dtype of each component by its configuration key, for the report."""
    dtypes = {
        "dtype": transformer_dtype(config, device),
        "text_encoder_dtype": text_encoder_dtype(config, device),
        "vae_dtype": vae_dtype(config, device, family),
    }
    return {key: str(dtype).removeprefix("torch.") for key, dtype in dtypes.items()}
