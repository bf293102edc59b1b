"""Weight files of fewer bits as they are published: fp8 as ComfyUI writes it, and GGUF. Nothing here comes from
Lockstep's own tables."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]
FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether ComfyUI's and city96's scripts quantise it: a matrix in a block."""
    return tensor.ndim == 2 and name.endswith(".weight") and re.search(r"(^|\.)\w*blocks\.\d+\.", name) is not None


def scaled_fp8(tensors: Tensors, newer: bool = False) -> tuple[Tensors, Tensors]:
    """A file with one scale a matrix, and the weights that it stands for.

    Args:
        newer: ``weight_scale`` and ``comfy_quant`` beside each matrix; else ``scale_weight``, ``scale_input`` and the
            marker ``scaled_fp8``.
    """
    file: Tensors = {} if newer else {"scaled_fp8": torch.empty(0, dtype=FP8)}
    meant: Tensors = {}
    for name, tensor in tensors.items():
        if not is_matrix(name, tensor):
            file[name] = meant[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        scale = tensor.abs().max().float() / _LARGEST
        file[name] = (tensor.float() / scale).to(FP8)
        meant[name] = file[name].float() * scale
        if newer:
            described = json.dumps({"format": "float8_e4m3fn"}).encode()
            file[f"{layer}.weight_scale"] = scale
            file[f"{layer}.comfy_quant"] = torch.tensor(list(described), dtype=torch.uint8)
        else:
            file[f"{layer}.scale_weight"] = scale
            file[f"{layer}.scale_input"] = torch.tensor(1.5)
    return file, meant


def plain_fp8(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """A file in which every tensor of two or more dims was cast, and the weights that it stands for."""
    file = {name: tensor.to(FP8) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    return file, {name: tensor.float() for name, tensor in file.items()}


def save(tensors: Tensors, path: Path, prefix: str = "") -> Path:
    """Write a safetensors file, all names after the prefix."""
    save_file({f"{prefix}{name}": tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def write_gguf(
    tensors: Tensors, path: Path, kind: Any = gguf.GGMLQuantizationType.Q8_0, arch: str = "wan"
) -> tuple[Path, Tensors]:
    """Write a GGUF file with the matrices of the blocks in ``kind`` and other matrices in bfloat16; returns the weights
    that it stands for as the package gguf dequantises them."""
    writer = gguf.GGUFWriter(path, arch)
    meant: Tensors = {}
    for name, tensor in tensors.items():
        numbers = tensor.float().numpy()
        if is_matrix(name, tensor):
            stored, how = gguf.quants.quantize(numbers, kind), kind
        elif tensor.ndim == 2:
            stored, how = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.BF16), gguf.GGMLQuantizationType.BF16
        else:
            stored, how = np.ascontiguousarray(numbers), gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, stored, raw_dtype=how)
        meant[name] = torch.from_numpy(gguf.quants.dequantize(stored, how)).reshape(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, meant
