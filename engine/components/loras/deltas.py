"""What the tensors of an adapter change a weight by. Shapes without brackets are those of the factors in the file; the
results have two or more dims, the first of which is the layer's output."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def delta(parts: Tensors) -> Tensor:
    """The change before scaling, float32 or on the meta device.

    Args:
        parts: by kind (:mod:`engine.components.loras.keys`), those of a LoRA, a LoHa or a LoKr, complete.

    Raises:
        RuntimeError: their shapes do not fit one another.
    """
    if "down" in parts:
        return _lora(parts["down"], parts["up"], parts.get("mid"))
    if "hada_w1_a" in parts:
        return _hadamard_factor(parts, "1") * _hadamard_factor(parts, "2")
    return _kronecker(_kronecker_factor(parts, "1"), _kronecker_factor(parts, "2"))


def _lora(down: Tensor, up: Tensor, mid: Tensor | None) -> Tensor:
    """``up @ down`` (arXiv 2106.09685); of a convolution with ``mid`` the Tucker product of LoCon (LyCORIS).

    Args:
        down: [rank, inputs, ...]; with ``mid`` [rank, inputs, 1, ...].
        up: [outputs, rank, ...], the dims after the second being 1.
        mid: [rank, rank, kernel ...].
    """
    if mid is None:
        return up.flatten(1) @ down.flatten(1)
    return torch.einsum("oa,ab...,bi->oi...", up.flatten(1), mid, down.flatten(1))


def _hadamard_factor(parts: Tensors, number: str) -> Tensor:
    """One of the two products that a LoHa multiplies element by element (arXiv 2108.06098, LyCORIS)."""
    a, b = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    core = parts.get(f"hada_t{number}")
    return a @ b if core is None else torch.einsum("ab...,bi,ao->oi...", core, b, a)


def _kronecker_factor(parts: Tensors, number: str) -> Tensor:
    if f"lokr_w{number}" in parts:
        return parts[f"lokr_w{number}"]
    a, b = parts[f"lokr_w{number}_a"], parts[f"lokr_w{number}_b"]
    core = parts.get("lokr_t2") if number == "2" else None
    return a @ b if core is None else torch.einsum("ab...,bi,ao->oi...", core, b, a)


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """The Kronecker product of a LoKr (arXiv 2309.14859, LyCORIS): the first factor has no kernel dims."""
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    return torch.kron(first, second.contiguous())


def decomposed(base: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """What a DoRA changes the weight by: m · (W + ΔW) / ‖W + ΔW‖ − W (arXiv 2402.09353).

    Args:
        base: W [outputs, inputs, ...], float32.
        change: ΔW, scaled, in the same shape.
        magnitude: m, of each output, or of each input where :func:`is_per_input` says so.
    """
    weight = base + change
    if is_per_input(magnitude.shape, base.shape):
        dims = [0, *range(2, base.ndim)]
        magnitude = magnitude.reshape(1, -1, *[1] * (base.ndim - 2))
    else:
        dims = list(range(1, base.ndim))
        magnitude = magnitude.reshape(-1, *[1] * (base.ndim - 1))
    norm = torch.linalg.vector_norm(weight, dim=dims, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return magnitude * weight / norm - base


def is_per_input(magnitude: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether the scales of a DoRA belong to inputs, [1, inputs, ...], and not to outputs: [outputs], [outputs, 1, ...]
    or, of peft's convolutions, [1, outputs, 1, ...]."""
    if len(magnitude) < 2 or magnitude[0] != 1 or weight[0] == 1:
        return False
    return len(magnitude) == 2 or magnitude[1] != weight[0]
