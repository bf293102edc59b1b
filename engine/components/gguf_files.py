"""GGUF files of transformers, read with the package gguf and kept as diffusers keeps them."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import MachineUnfit


def check_gguf_package() -> None:
    """Refuse GGUF files where the package gguf is missing.

    Raises:
        MachineUnfit: one sentence that says how to install it.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MachineUnfit(
            "model.single_files names a GGUF file, but the package gguf is not installed: install "
            "lockstep-video[quantize], or name a file in safetensors."
        )


def read_gguf(file: Path) -> dict[str, Tensor]:
    """The tensors under their names in the file, mapped rather than read: plain ones in float32, float16 or bfloat16,
    others as diffusers' ``GGUFParameter``.

    Raises:
        ValueError: the file is damaged, or holds numbers of a kind that diffusers cannot dequantise; a phrase.
    """
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter
    from gguf import GGMLQuantizationType, GGUFReader

    try:
        reader = GGUFReader(file, "c")  # copied on write, else torch warns that it may not write into the tensors
        held = [(str(tensor.name), tensor.tensor_type, torch.from_numpy(tensor.data)) for tensor in reader.tensors]
    except Exception as error:  # the reader checks little, and numpy raises anything about a file that is cut
        raise ValueError(f"it is no whole GGUF file: {error}") from None
    kinds = GGMLQuantizationType
    weights: dict[str, Tensor] = {}
    for name, kind, data in held:
        if kind in (kinds.F32, kinds.F16):
            weights[name] = data
        elif kind == kinds.BF16:
            weights[name] = data.view(torch.bfloat16)
        elif kind in SUPPORTED_GGUF_QUANT_TYPES:
            weights[name] = GGUFParameter(data, quant_type=kind)
        else:
            known = ", ".join(sorted(kind.name for kind in SUPPORTED_GGUF_QUANT_TYPES))
            raise ValueError(f"{name} is of the kind {kind.name}, and diffusers knows {known}")
    return weights


def gguf_linear(layer: nn.Linear, weight: Tensor, dtype: torch.dtype) -> Any:
    """diffusers' linear layer that dequantises its weight each time it runs.

    Args:
        layer: on the meta device, for its sizes; its bias is still to be loaded.
        weight: diffusers' ``GGUFParameter``.
        dtype: of the arithmetic.
    """
    from diffusers.quantizers.gguf.utils import GGUFLinear

    made = GGUFLinear(
        layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, device=torch.device("meta")
    )
    made.bias = layer.bias
    made.weight = weight
    return made.requires_grad_(False)
