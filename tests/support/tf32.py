"""TF32 as tensor cores compute with it, on the CPU: convolutions of float32 see numbers with 10 bits of mantissa."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.conv2d, torch.ops.aten.conv3d)


def to_tf32(x: Tensor) -> Tensor:
    """Float32 rounded to the nearest number with 10 bits of mantissa, halves away from zero (PTX: cvt.rna.tf32.f32)."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Tf32Convolutions(TorchDispatchMode):
    """Inside, inputs and weights of float32 convolutions are rounded; products are added in float32, as on the card."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _CONVOLUTIONS and args[0].dtype == torch.float32:
            self.count += 1
            args = (to_tf32(args[0]), to_tf32(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))
